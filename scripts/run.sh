#!/usr/bin/env bash
# Starts a development Sealwright, shows a first certificate and a first
# wrapped data key, and stays until Ctrl-C. Arguments go to 'sealwrightd dev'.
# BIN is the directory of the programs, bin by default.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=.sealwright
previous=
for argument in "$@"; do
	[ "$previous" != --dir ] || dir=$argument
	previous=$argument
done
rm -f "$dir/ready" # left by a run that was killed

"${BIN:-bin}/sealwrightd" dev "$@" &
daemon=$!
trap 'kill -TERM $daemon 2>/dev/null || true; wait $daemon 2>/dev/null || true' EXIT
trap 'exit 0' INT TERM

until [ -e "$dir/ready" ]; do
	kill -0 $daemon 2>/dev/null || { wait $daemon; exit 1; }
	sleep 0.1
done
# shellcheck disable=SC1091
. "$dir/env"

show() {
	printf '\n$ %s\n' "$*"
	"$@"
}
sealwright key describe dev/welcome/first >/dev/null 2>&1 || show sealwright key create dev/welcome/first
show sealwright cert issue --spiffe service/welcome --dns localhost --ip 127.0.0.1 --ttl 1h --out "$dir/welcome"
show sealwright datakey dev/welcome/first --output json
show sealwright audit verify
cat <<END

Sealwright is running. In another terminal:

    source $dir/env
    sealwright status

Ctrl-C stops it; 'make run' finds everything again.
END
wait $daemon
