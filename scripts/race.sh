#!/usr/bin/env bash
# The race detector on the packages that run goroutines of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install.sh run test
SEALWRIGHT_TEST_REQUIRE=softhsm,swtpm,postgres go test -race -short -timeout 15m \
	./hsm/... ./tpm/... ./storage/... ./audit ./guard/... ./kms/... ./pki/ca ./server ./client
