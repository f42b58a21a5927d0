package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A stranger's first minute: a clean copy, an empty home, make run. Then again.
func TestMakeRun(t *testing.T) {
	needSoftHSM(t)
	maker := require(t, "make", "make")
	if conn, err := exec.Command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8470").CombinedOutput(); err == nil {
		t.Skipf("port 8470 is taken here: %s", conn)
	}
	tree := filepath.Join(t.TempDir(), "sealwright")
	cleanCopy(t, tree)
	home := t.TempDir()
	environ := []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
	for _, name := range []string{"GOMODCACHE", "GOCACHE", "GOROOT", "GOPROXY", "GOSUMDB", "GOFLAGS", "GONOSUMDB", "GOINSECURE"} { // so that nothing is downloaded or built twice
		if value := strings.TrimSpace(run(t, "go", "env", name)); value != "" {
			environ = append(environ, name+"="+value)
		}
	}
	var first string
	for i, stop := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		s := &service{t: t, dir: tree, output: &output{}, done: make(chan struct{})}
		s.cmd = exec.Command(maker, "run")
		s.cmd.Dir, s.cmd.Env = tree, environ
		s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := s.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = s.cmd.Wait(); close(s.done) }()
		t.Cleanup(s.kill)
		s.wait(5*time.Minute, func() bool { return strings.Contains(s.output.String(), "Ctrl-C stops it") })
		shown := s.output.String()
		for _, want := range []string{
			"not for production", "$ sealwright cert issue --spiffe service/welcome", `"wrapped": "sw1:`, "the server's log verifies:",
			[]string{"Created a new Sealwright", "Found everything again"}[i],
		} {
			if !strings.Contains(shown, want) {
				t.Errorf("run %d shows no %q:\n%s", i+1, want, shown)
			}
		}
		if readme := firstScreen(t); i == 0 && !readme.matches(shown) {
			t.Errorf("README.md:%d shows:\n%s\nprinted:\n%s", readme.line, strings.Join(readme.shown, "\n"), shown)
		}
		s.dir = filepath.Join(tree, ".sealwright")
		key := s.must("PATH=" + tree + "/bin:$PATH sealwright key describe dev/welcome/first --output json")
		if i == 0 {
			first = key
		} else if key != first {
			t.Errorf("the second run has another key:\n%s%s", first, key)
		}
		target := s.cmd.Process.Pid
		if stop == syscall.SIGINT {
			target = -target // Ctrl-C goes to the whole group
		}
		_ = syscall.Kill(target, stop)
		select {
		case <-s.done:
		case <-time.After(20 * time.Second):
			t.Fatalf("make run did not stop on %s:\n%s", stop, s.output)
		}
		if err := syscall.Kill(-s.cmd.Process.Pid, 0); err != syscall.ESRCH {
			t.Errorf("processes are left after %s: %v", stop, err)
		}
		if exists(filepath.Join(s.dir, "ready")) {
			t.Errorf("the file ready is left after %s", stop)
		}
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 2 {
		t.Errorf("the home is littered: %v, %v", left, err)
	}
	if out := run(t, "git", "-C", tree, "status", "--porcelain"); out != "" {
		t.Errorf("the tree is littered:\n%s", out)
	}
}

// firstScreen is what the README shows of make run.
func firstScreen(t *testing.T) example {
	t.Helper()
	for _, e := range examplesIn(t, "../README.md") {
		if e.command == "make run" && len(e.shown) > 0 {
			return e
		}
	}
	t.Fatal("the README does not show make run")
	return example{}
}

// cleanCopy clones what is committed, and adds what is not yet.
func cleanCopy(t *testing.T, to string) {
	t.Helper()
	out, err := exec.Command("git", "-C", "..", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Skipf("not a git checkout, so there is nothing to clone: %v", err)
	}
	run(t, "bash", "-c", `set -e
git clone -q "$1" "$2"
cd "$1"
git diff HEAD --binary > "$2.diff"
cd "$2"
[ ! -s "$2.diff" ] || git apply "$2.diff"
git -c user.name=t -c user.email=t@t commit -qam working --allow-empty`, "bash", strings.TrimSpace(string(out)), to)
}
