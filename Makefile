# make run    a running Sealwright on a SoftHSM2 token and SQLite, with a first certificate and data key
#             (ARGS='--listen 127.0.0.1:9470 --device swtpm' goes to sealwrightd dev)
# make test   installs what is missing and runs every test
# make bench  prints speeds, each with its ratio to the limit of the same run
# make lint   golangci-lint        make build   bin/sealwrightd and bin/sealwright

SHELL := bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS := -s -w -X main.version=$(VERSION)
REQUIRE := softhsm,swtpm,postgres,nginx,openssl,gnutls,strace,cc
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: run test bench bench-all lint build

build:
	@scripts/install.sh run
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sealwrightd ./cmd/sealwrightd
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sealwright ./cmd/sealwright

run: build
	@scripts/run.sh $(ARGS)

test:
	@scripts/install.sh run test
	SEALWRIGHT_TEST_REQUIRE=$(REQUIRE) go test -timeout 20m ./...

bench:
	@scripts/install.sh run test
	go run ./bench

bench-all: # every benchmark of every package, as go test prints it; takes far longer
	@scripts/install.sh run test
	go test -run '^$$' -bench . -benchmem -timeout 60m ./storage/... ./audit ./kms/... ./pki/... ./hsm ./tpm ./policy ./guard

lint:
	go vet ./...
	go run $(GOLANGCI) run
