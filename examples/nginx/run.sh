#!/usr/bin/env bash
# nginx with mutual TLS on certificates from Sealwright. It accepts a client,
# refuses it once it is revoked and nginx has the new CRLs, and refuses another
# that has expired. Needs nginx, curl, openssl and a running Sealwright:
#
#   sealwrightd dev &
#   source .sealwright/env && examples/nginx/run.sh
#
# PORT (8443) is where nginx listens; CRL_URL (http://127.0.0.1:8471/crl) is
# where the CRLs are, as sealwrightd dev prints it.
set -euo pipefail
: "${SEALWRIGHT_ADDR:?source the env file of a running sealwrightd dev first}"
port=${PORT:-8443}
crl_url=${CRL_URL:-http://127.0.0.1:8471/crl}
crl_url=${crl_url%/}
here=$(cd "$(dirname "$0")" && pwd)
nginx=$(PATH="$PATH:/usr/sbin:/sbin" command -v nginx)
dir=$(mktemp -d)
web=
finish() {
	[ -z "$web" ] || { kill -QUIT "$web" && wait "$web" || true; }
	rm -rf "$dir"
}
trap finish EXIT
cd "$dir"

say() { printf '\n== %s\n' "$*"; }

# crls fetches every CRL: nginx checks the whole chain, so it needs the root's as well.
crls() {
	curl -sSf --cacert "$SEALWRIGHT_CA" --cert "$SEALWRIGHT_CERT" --key "$SEALWRIGHT_KEY" "$SEALWRIGHT_ADDR/v1/issuers" |
		grep -o '"id": *"[0-9a-f]*"' | cut -d'"' -f4 |
		while read -r issuer; do
			curl -sSf "$crl_url/$issuer.crl" | openssl crl -inform DER
		done >crl.new
	mv crl.new crl.pem
}

# as calls nginx as a client and prints the HTTP status; --retry waits for nginx to start.
as() {
	curl -s -o answer -w '%{http_code}' --retry 20 --retry-connrefused --retry-delay 1 --max-time 10 \
		--cacert server/ca.pem --cert "$1/cert.pem" --key "$1/key.pem" "https://localhost:$port/" || true
}

# expect waits a little: a reload lets old workers finish what they have.
expect() { # status client
	local got
	for _ in $(seq 50); do
		got=$(as "$2")
		[ "$got" != "$1" ] || { echo "$2: HTTP $got: $(grep -v '^<' answer | head -n 1 || true)$(grep -o '<title>.*</title>' answer || true)"; return 0; }
		sleep 0.1
	done
	echo "$2: HTTP $got, expected $1" >&2
	cat error.log answer >&2
	exit 1
}

say "certificates for nginx and three clients"
sealwright cert issue --profile server --dns localhost --ip 127.0.0.1 --ttl 24h --out server
sealwright cert issue --spiffe service/alice --ttl 1h --out alice
sealwright cert issue --spiffe service/bob --ttl 1h --out bob
crls
sed -e "s|DIR|$dir|g" -e "s|PORT|$port|g" "$here/nginx.conf" >nginx.conf
"$nginx" -e "$dir/error.log" -c "$dir/nginx.conf" &
web=$!

say "nginx accepts clients with a certificate, and nobody without"
expect 200 alice
expect 200 bob
code=$(curl -s -o answer -w '%{http_code}' --cacert server/ca.pem "https://localhost:$port/" || true)
[ "$code" = 400 ] || { echo "without a certificate: HTTP $code" >&2; exit 1; }
echo "nobody: HTTP $code"

say "alice is revoked: nginx refuses her once it has the new CRLs"
sealwright cert revoke "$(openssl x509 -in alice/cert.pem -noout -serial | cut -d= -f2)" --why key-compromise
crls
kill -HUP "$web"
expect 400 alice
grep -q 'certificate revoked' error.log
expect 200 bob

say "carol's certificate lives for seconds"
sealwright cert issue --spiffe service/carol --ttl 8s --out carol
expect 200 carol
until ! openssl x509 -in carol/cert.pem -noout -checkend 0 >/dev/null; do sleep 0.5; done
expect 400 carol
grep -q 'certificate has expired' error.log

printf '\nnginx accepted, and refused the revoked and the expired.\n'
