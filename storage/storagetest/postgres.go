package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Need skips the test because component is absent, or fails it when
// SEALWRIGHT_TEST_REQUIRE names the component.
func Need(t testing.TB, component, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("SEALWRIGHT_TEST_REQUIRE"), ","), component) {
		t.Fatalf("%s is required: %s", component, reason)
	}
	t.Skipf("without %s: %s", component, reason)
}

// Postgres returns the address of a fresh database for one test. The server
// runs in a directory of its own, with fsync on; it is started once per test
// process and ends with it.
func Postgres(t testing.TB) string {
	t.Helper()
	c, err := start()
	if err != nil {
		t.Fatalf("starting PostgreSQL: %v", err)
	}
	if c.missing != "" {
		Need(t, "postgres", c.missing)
	}
	name := fmt.Sprintf("t%d", c.databases.Add(1))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.address("postgres"))
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("creating a database: %v", err)
	}
	// It is not dropped: that costs a checkpoint, and the whole server goes away soon.
	return c.address(name)
}

// cluster is the PostgreSQL server of this test process.
type cluster struct {
	missing   string // why there is none
	dir       string // also holds the socket
	user      string
	leash     io.Closer // the nanny's standard input; held here so that nothing collects it
	databases atomic.Int64
}

// start starts the cluster at the first call.
var start = sync.OnceValues(newCluster)

func (c *cluster) address(database string) string {
	return fmt.Sprintf("host=%s user=%s dbname=%s sslmode=disable", c.dir, c.user, database)
}

// nanny runs the server until its own standard input ends, which happens when
// the test process ends, however it ends. Then it removes the directory.
const nanny = `"$1/postgres" -D "$2/data" </dev/null & pid=$!
read -r end
kill -INT $pid; wait $pid; rm -rf "$2"`

func newCluster() (*cluster, error) {
	bin := binaries()
	if bin == "" {
		return &cluster{missing: "no PostgreSQL server in /usr/lib/postgresql or PATH (Debian: postgresql)"}, nil
	}
	owner, attr, err := unprivileged()
	if err != nil {
		return &cluster{missing: err.Error()}, nil
	}
	dir, err := os.MkdirTemp("", "sealwright-pg-")
	if err != nil {
		return nil, err
	}
	if attr.Credential != nil {
		if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return nil, err
		}
	}
	initdb := exec.CommandContext(context.Background(), filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-A", "trust", "-U", owner, "-E", "UTF8", "--no-locale", "-N")
	initdb.SysProcAttr, initdb.Dir = attr, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w\n%s", err, out), os.RemoveAll(dir))
	}
	settings := fmt.Sprintf("listen_addresses = ''\nunix_socket_directories = '%s'\nmax_connections = 200\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "data", "postgresql.auto.conf"), []byte(settings), 0o644); err != nil {
		return nil, err
	}
	logs, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	defer logs.Close()
	server := exec.CommandContext(context.Background(), "/bin/sh", "-c", nanny, "sh", bin, dir)
	server.SysProcAttr, server.Dir, server.Stdout, server.Stderr = attr, dir, logs, logs
	leash, err := server.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, user: owner, leash: leash}
	return c, c.wait()
}

// wait returns when the server answers.
func (c *cluster) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, c.address("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		if ctx.Err() != nil {
			f, _ := os.Open(filepath.Join(c.dir, "server.log"))
			text, _ := io.ReadAll(f)
			return fmt.Errorf("the server does not answer: %w\n%s", err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// binaries finds the newest server installed.
func binaries() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return major(b) - major(a) })
	if len(found) > 0 {
		return filepath.Dir(found[0])
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path)
	}
	return ""
}

func major(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// unprivileged returns who runs the server, which refuses to run as root.
func unprivileged() (string, *syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setpgid: true} // an interrupt of the tests must reach the nanny by its pipe only
	if os.Getuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return "", nil, err
		}
		return u.Username, attr, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return "", nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return "", nil, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return u.Username, attr, nil
	}
	return "", nil, fmt.Errorf("root may not run PostgreSQL, and there is neither a user postgres nor nobody")
}
