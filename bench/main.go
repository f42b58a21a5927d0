// Command bench measures a running sealwrightd from outside: server CPU per
// operation, operations per second, p50 and p99, beside limits measured in the
// same run on the same machine: a TLS server that does nothing, and the disk's
// fsync rate. Then it runs the benchmarks of the packages below, with their own
// limits. It starts what it measures in a temporary directory.
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
	defer d.stop() // again is harmless
	fmt.Printf("start to ready: %s   resident idle: %.1f MiB\n", d.started.Round(time.Millisecond), d.residentMiB())

	n, err := startNoop(d)
	if err != nil {
		return err
	}
	defer n.stop()

	header()
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
		line{name: row.name, rate: got.rate, p50: got.p50, p99: got.p99, cpu: got.cpu, ratio: fmt.Sprintf("%.2f", got.cpu/limit), limit: "CPU of the TLS no-op"}.print()
	}
	fmt.Printf("\nresident after load: %.1f MiB\n", d.residentMiB())
	if *only != "" {
		return nil
	}
	d.stop()
	n.stop()
	header()
	for _, i := range insides() {
		lines, err := i.run()
		if err != nil {
			return err
		}
		for _, l := range lines {
			l.print()
		}
	}
	return nil
}
