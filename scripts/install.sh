#!/usr/bin/env bash
# Installs, by Debian package name, what is missing for the purposes named:
#   run   build and run on a SoftHSM2 token      test   everything the tests drive
# Says what it does; does nothing when nothing is missing.
set -euo pipefail

packages=()
need() { # command-or-file package
	case $1 in
	/*) compgen -G "$1" >/dev/null || packages+=("$2") ;;
	*) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || packages+=("$2") ;;
	esac
}

for purpose in "$@"; do
	case $purpose in
	run)
		need gcc gcc
		need '/usr/include/stdlib.h' libc6-dev
		need '/usr/lib*/*/softhsm/libsofthsm2.so' softhsm2
		need curl curl
		;;
	test)
		need swtpm swtpm
		need nginx nginx-light
		need openssl openssl
		need certtool gnutls-bin
		need strace strace
		need sqlite3 sqlite3
		need '/usr/lib/postgresql/*/bin/postgres' postgresql
		;;
	*)
		echo "install.sh: no purpose named $purpose" >&2
		exit 2
		;;
	esac
done

command -v go >/dev/null || {
	echo "Go is missing: install Go 1.26 or newer from https://go.dev/dl, then repeat." >&2
	exit 1
}
# Go 1.21 and newer fetch the Go that go.mod names; older ones, Debian 12's among
# them, only fail to read go.mod.
case $(go env GOVERSION 2>/dev/null) in
go1.? | go1.?.* | go1.1? | go1.1?.* | go1.20 | go1.20.* | '')
	echo "$(go version) is too old: install Go 1.26 or newer from https://go.dev/dl, then repeat." >&2
	exit 1
	;;
esac
[ ${#packages[@]} -gt 0 ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	sudo=sudo
	command -v sudo >/dev/null || {
		echo "As root, run: apt-get install --no-install-recommends ${packages[*]}" >&2
		exit 1
	}
fi
echo "Installing: ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# A server that Debian starts by itself is of no use here and may hold a port.
$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
