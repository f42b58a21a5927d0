#!/usr/bin/env bash
# Encrypts and decrypts with curl alone, under the key that is given, or
# dev/payments/orders. Before: source .sealwright/env.
set -euo pipefail
key=${1:-dev/payments/orders}

call() { # path, body
	curl -sS --fail-with-body --cacert "$SEALWRIGHT_CA" --cert "$SEALWRIGHT_CERT" --key "$SEALWRIGHT_KEY" \
		-H 'Content-Type: application/json' -H 'Sealwright-Reason: trying curl' -d "$2" "$SEALWRIGHT_ADDR$1"
}
field() { sed -E "s/.*\"$1\":\"([^\"]*)\".*/\\1/"; }

context='{"tenant": "42"}'
plaintext=$(printf 'hello\n' | base64)
sealed=$(call "/v1/keys/$key/encrypt" "{\"plaintext\": \"$plaintext\", \"context\": $context}" | field ciphertext)
call /v1/decrypt "{\"ciphertext\": \"$sealed\", \"context\": $context}" | field plaintext | base64 -d
