// Package e2e tries Sealwright as its users meet it: the real programs, in real
// processes, with real clients around them. It holds tests only.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/client"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// bin is where TestMain puts the programs.
var bin string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sealwright-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	for program, cgo := range map[string]string{"sealwrightd": "1", "sealwright": "0"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, program), "../cmd/"+program)
		build.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", program, err, out)
			return 1
		}
	}
	return m.Run()
}

// require skips or fails without the program.
func require(t testing.TB, component, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if _, statErr := os.Stat(dir + program); statErr == nil {
				return dir + program
			}
		}
	}
	softhsmtest.Require(t, component, err == nil, program+" is not installed")
	return path
}

// output is what a process has printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// service is a running sealwrightd.
type service struct {
	t      testing.TB
	dir    string
	cmd    *exec.Cmd
	output *output
	done   chan struct{}
	vars   []string // the administrator's environment; nil: what DIR/env says
}

// start runs sealwrightd dev in dir and waits until it is ready. It ends with the test.
func start(t testing.TB, dir string, args ...string) *service {
	t.Helper()
	s := launch(t, dir, nil, args...)
	s.waitReady(30 * time.Second)
	return s
}

// launch is start without the waiting; wrap is a command to run it under.
func launch(t testing.TB, dir string, wrap []string, args ...string) *service {
	t.Helper()
	needSoftHSM(t)
	_ = os.Remove(filepath.Join(dir, "ready"))
	line := append(append(append([]string{}, wrap...), filepath.Join(bin, "sealwrightd"), "dev", "--dir", dir, "--listen", "127.0.0.1:0"), args...)
	return spawn(t, dir, nil, line...)
}

// spawn runs a program in a process group of its own, with environ added to ours.
func spawn(t testing.TB, dir string, environ []string, line ...string) *service {
	t.Helper()
	s := &service{t: t, dir: dir, output: &output{}, done: make(chan struct{})}
	s.cmd = exec.Command(line[0], line[1:]...)
	s.cmd.Env = append(os.Environ(), environ...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	t.Cleanup(func() { s.kill() })
	return s
}

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

func needSoftHSM(t testing.TB) {
	t.Helper()
	softhsmtest.Require(t, "softhsm", exists(softHSM, "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"), "SoftHSM2 is not installed")
}

func exists(paths ...string) bool {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return true
		}
	}
	return false
}

func (s *service) ready() bool {
	text, err := os.ReadFile(filepath.Join(s.dir, "ready"))
	return err == nil && len(text) > 0
}

func (s *service) waitReady(limit time.Duration) {
	s.t.Helper()
	s.wait(limit, s.ready)
}

// wait polls until the condition holds, and fails when the process ends or limit is over.
func (s *service) wait(limit time.Duration, condition func() bool) {
	s.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("sealwrightd ended before it was ready:\n%s", s.output)
		default:
		}
		if time.Now().After(end) {
			s.t.Fatalf("sealwrightd was not ready after %s:\n%s", limit, s.output)
		}
	}
}

// kill is kill -9, of the whole process group, and waits for the end.
func (s *service) kill() {
	if s.over() { // its number may be somebody else's by now
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
}

// stop is SIGTERM and an orderly end.
func (s *service) stop() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		s.t.Fatalf("sealwrightd did not stop:\n%s", s.output)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("sealwrightd ended with %d:\n%s", code, s.output)
	}
}

// env is the environment of DIR/env, as a shell would have it.
func (s *service) env() []string {
	s.t.Helper()
	if s.vars != nil {
		return append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir}, s.vars...)
	}
	shell := exec.Command("bash", "-c", `. "$1" && env -0`, "bash", filepath.Join(s.dir, "env"))
	shell.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir}
	out, err := shell.Output()
	if err != nil {
		s.t.Fatalf("sourcing env: %v", err)
	}
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
}

// client is the SDK as the administrator.
func (s *service) client(attempts int) *client.Client {
	s.t.Helper()
	vars := map[string]string{}
	for _, kv := range s.env() {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	config := client.FromEnvironment(func(k string) string { return vars[k] })
	config.Attempts = attempts
	c, err := client.New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// sh runs a line of bash as the administrator and returns what it printed.
func (s *service) sh(line string) (stdout, stderr string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", "set -o pipefail; "+line)
	shell.Env = s.env()
	shell.Dir = s.t.TempDir()
	var out, problems bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &problems
	_ = shell.Run()
	return out.String(), problems.String(), shell.ProcessState.ExitCode()
}

// must is sh of a line that has to work.
func (s *service) must(line string) string {
	s.t.Helper()
	out, problems, code := s.sh(line)
	if code != 0 {
		s.t.Fatalf("%s\nended with %d\n%s%s", line, code, out, problems)
	}
	return out
}
