// Command bench measures a running sealwrightd from outside: server CPU per
// operation, operations per second, p50 and p99, beside limits measured in the
// same run on the same machine: a TLS server that does nothing, and the disk's
// fsync rate. It starts what it measures in a temporary directory.
//
//	go run ./bench [-seconds 10] [-connections 32] [-bin DIR] [-only REGEXP]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "-noop" {
		serveNoop(os.Args[2], os.Args[3])
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	seconds := flag.Int("seconds", 10, "how long each row runs")
	connections := flag.Int("connections", 32, "keep-alive connections")
	bin := flag.String("bin", "", "directory with sealwrightd; built when empty")
	only := flag.String("only", "", "regular expression: measure the limit and the rows it matches")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sealwright-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if *bin == "" {
		*bin = dir
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "sealwrightd"), "./cmd/sealwrightd")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("building sealwrightd: %w", err)
		}
	}
	length := time.Duration(*seconds) * time.Second

	perSecond, err := fsyncRate(dir, 2*time.Second)
	if err != nil {
		return err
	}
	fmt.Printf("disk: %.0f fdatasync/s of 4 KiB appends\n", perSecond)

	d, err := startDev(filepath.Join(*bin, "sealwrightd"), filepath.Join(dir, "dev"))
	if err != nil {
		return err
	}
	defer d.stop()
	fmt.Printf("start to ready: %s   resident idle: %.1f MiB\n", d.started.Round(time.Millisecond), d.residentMiB())

	n, err := startNoop(d)
	if err != nil {
		return err
	}
	defer n.stop()

	fmt.Printf("\n%-34s %10s %9s %9s %11s %s\n", "over mTLS, keep-alive", "ops/s", "p50", "p99", "CPU µs/op", "ratio to the TLS no-op's CPU")
	var limit float64
	for _, row := range rows(d, n) {
		if limit != 0 && !wanted.MatchString(row.name) {
			continue
		}
		got, err := measure(row, *connections, length)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		if limit == 0 {
			limit = got.cpu
		}
		fmt.Printf("%-34s %10.0f %9s %9s %11.1f %.2f\n", row.name, got.rate, got.p50.Round(10*time.Microsecond), got.p99.Round(10*time.Microsecond), got.cpu, got.cpu/limit)
	}
	fmt.Printf("\nresident after load: %.1f MiB\n", d.residentMiB())
	return nil
}
