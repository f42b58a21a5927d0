package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// inside is a benchmark of a package: what the rows over the network stand on.
type inside struct {
	what    string // the row's name; the sub-benchmark's own is appended
	pkg     string
	pattern string
	time    string // -benchtime
	rate    string // the unit of operations per second; "" if it reports ns/op alone
	ratio   string // the unit of the ratio
	percent bool   // the ratio is in percent
	limit   string // what the ratio is to
}

// insides are measured after the server has stopped. Each compares with its
// limit in its own run.
func insides() []inside {
	return []inside{
		{what: "durable updates", pkg: "./storage/sqlite", pattern: "^BenchmarkCommit$/^plain$/^callers=(1|8|64)$", time: "2s", rate: "op/s", ratio: "op/fdatasync", limit: "fdatasync/s of the disk"},
		{what: "the door alone", pkg: "./guard", pattern: "^BenchmarkEnter$", time: "2s"},
		{what: "certificates, in process", pkg: "./pki/ca", pattern: "^BenchmarkIssue$/^callers=(1|8|32)$", time: "5x", rate: "certificates/s", ratio: "%ofLimit", percent: true, limit: "CSR check + x509.CreateCertificate, same device"},
	}
}

// line is one row of the table; what was not measured is zero or empty.
type line struct {
	name     string
	rate     float64
	p50, p99 time.Duration
	cpu      float64 // µs per operation
	allocs   string
	ratio    string
	limit    string
}

func header() {
	fmt.Printf("\n%-34s %9s %9s %9s %10s %9s %7s  %s\n", "", "ops/s", "p50", "p99", "CPU µs/op", "allocs/op", "ratio", "to")
}

func (l line) print() {
	cpu := "-"
	if l.cpu > 0 {
		cpu = strconv.FormatFloat(l.cpu, 'f', 1, 64)
	}
	latency := func(d time.Duration) string {
		if d == 0 {
			return "-"
		}
		return d.Round(10 * time.Microsecond).String()
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	fmt.Printf("%-34s %9.0f %9s %9s %10s %9s %7s  %s\n", l.name, l.rate, latency(l.p50), latency(l.p99), cpu, dash(l.allocs), dash(l.ratio), l.limit)
}

// run runs the benchmark by go test and returns its rows.
func (i inside) run() ([]line, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", i.pattern, "-benchtime", i.time, "-benchmem", i.pkg)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", i.pkg, err, out.String())
	}
	var lines []line
	for text := range strings.Lines(out.String()) {
		if fields := strings.Fields(text); len(fields) > 3 && strings.HasPrefix(fields[0], "Benchmark") {
			lines = append(lines, i.line(fields))
		}
	}
	if len(lines) == 0 {
		fmt.Printf("%-34s was skipped: go test -v -bench . %s says why\n", i.what, i.pkg)
	}
	return lines, nil
}

// line reads one result: its name, the number of runs, then pairs of value and unit.
func (i inside) line(fields []string) line {
	values := map[string]float64{}
	for n := 2; n+1 < len(fields); n += 2 {
		values[fields[n+1]], _ = strconv.ParseFloat(fields[n], 64) // go test printed it
	}
	name, sub := i.what, strings.Split(fields[0], "/")
	if callers, ok := strings.CutPrefix(sub[len(sub)-1], "callers="); ok {
		callers, _, _ = strings.Cut(callers, "-")
		name += ", callers: " + callers
	}
	l := line{
		name: name, rate: values[i.rate], cpu: max(values["cpu-µs/op"], values["cpu-µs"]),
		p50: time.Duration(values["p50-µs"]) * time.Microsecond, p99: time.Duration(values["p99-µs"]) * time.Microsecond, limit: i.limit,
	}
	if i.rate == "" {
		l.rate = 1e9 / values["ns/op"]
	}
	// A benchmark whose operations are not its iterations cannot know allocations per operation.
	if allocs, ok := values["allocs/op"]; ok && !i.percent {
		l.allocs = strconv.FormatFloat(allocs, 'f', 0, 64)
	}
	if ratio := values[i.ratio]; ratio > 0 {
		if i.percent {
			ratio /= 100
		}
		l.ratio = strconv.FormatFloat(ratio, 'f', 2, 64)
	}
	return l
}
