// Command go encrypts a line under a key and decrypts it again.
//
//	source .sealwright/env
//	go run ./examples/go dev/payments/orders "order 4711"
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go run ./examples/go KEY TEXT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	config := client.FromEnvironment(os.Getenv) // SEALWRIGHT_ADDR, _CERT, _KEY, _CA
	config.Reason = "trying the Go SDK"
	c, err := client.New(config)
	if err != nil {
		return err
	}
	defer c.Close()

	tenant := map[string]string{"tenant": "42"} // bound to the ciphertext, logged, never secret
	sealed, err := c.Encrypt(ctx, name, []byte(text), tenant)
	if errors.Is(err, api.ErrNotFound) {
		return fmt.Errorf("%w: make it with: sealwright key create %s", err, name)
	}
	if err != nil {
		return err
	}
	opened, err := c.Decrypt(ctx, sealed.Ciphertext, tenant)
	if err != nil {
		return err
	}
	fmt.Printf("%s\nversion %d of %s: %s\n", sealed.Ciphertext, opened.Version, opened.Key, opened.Plaintext)
	return nil
}
