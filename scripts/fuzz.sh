#!/usr/bin/env bash
# Runs every fuzz target for the given time (default 10s).
set -euo pipefail
cd "$(dirname "$0")/.."
grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | sort -u | while read -r target; do
		echo "-- $dir $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-10s}" "$dir" </dev/null
	done
done
