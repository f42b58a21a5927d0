package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
)

// contextFlag adds --context, repeatable, and returns what reads it.
func contextFlag(c *cobra.Command) func() (map[string]string, error) {
	var pairs []string
	c.Flags().StringArrayVar(&pairs, "context", nil, "`KEY=VALUE` of the encryption context; repeatable; only the same pairs decrypt; logged, never secret")
	return func() (map[string]string, error) { return parsePairs(pairs) }
}

func parsePairs(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if _, twice := m[k]; !ok || k == "" || twice {
			return nil, cli.Misuse("write --context key=value, each key once", "context %q", p)
		}
		m[k] = v
	}
	return m, api.CheckContext(m)
}

func (a *app) encryptCommand() *cobra.Command {
	c := &cobra.Command{Use: "encrypt NAME", Short: "Encrypt standard input, at most 64 KiB", Args: exactly(1),
		Long:    "Encrypts standard input under the newest version of a key and writes the ciphertext as a line of text.\nFor anything larger than 64 KiB encrypt under a data key: sealwright datakey.",
		Example: "  sealwright encrypt dev/payments/orders --context tenant=42 < plain > sealed"}
	pairs := contextFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		encryption, err := pairs()
		if err != nil {
			return err
		}
		plaintext, err := a.readAll(api.MaxPlaintext, "sealwright datakey makes a key to encrypt it with locally")
		if err != nil {
			return err
		}
		return a.with(c, func(ctx context.Context, server *client.Client) error {
			out, err := server.Encrypt(ctx, args[0], plaintext, encryption)
			if err != nil {
				return err
			}
			return a.print(out, func(t *cli.Table) { t.Row(out.Ciphertext) })
		})
	}
	return c
}

// readSealed reads one ciphertext.
func (a *app) readSealed() (string, error) {
	sealed, err := a.readAll(4*api.MaxPlaintext, "one ciphertext at a time")
	if err != nil {
		return "", err
	}
	text := string(bytes.TrimSpace(sealed))
	if text == "" {
		return "", cli.Misuse("give the ciphertext on standard input: sealwright decrypt < sealed", "standard input is empty")
	}
	return text, nil
}

func (a *app) decryptCommand() *cobra.Command {
	c := &cobra.Command{Use: "decrypt", Short: "Decrypt a ciphertext from standard input", Args: exactly(0),
		Long:    "Decrypts a ciphertext from standard input and writes the plaintext as it was, byte for byte.\nThe ciphertext names its key; the encryption context must be the one it was made with.",
		Example: "  sealwright decrypt --context tenant=42 < sealed > plain"}
	pairs := contextFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		encryption, err := pairs()
		if err != nil {
			return err
		}
		sealed, err := a.readSealed()
		if err != nil {
			return err
		}
		return a.with(c, func(ctx context.Context, server *client.Client) error {
			out, err := server.Decrypt(ctx, sealed, encryption)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.print(out, nil)
			}
			_, err = a.out.Write(out.Plaintext)
			return err
		})
	}
	return c
}

func (a *app) dataKeyCommand() *cobra.Command {
	var wrappedOnly bool
	c := &cobra.Command{Use: "datakey NAME", Short: "Make a 256-bit data key, in plaintext and wrapped", Args: exactly(1),
		Long:    "Makes a data key. Encrypt with the plaintext and forget it; keep the wrapped form beside the data.\nsealwright decrypt gives the plaintext back.",
		Example: "  sealwright datakey dev/payments/orders --context tenant=42 --output json"}
	pairs := contextFlag(c)
	c.Flags().BoolVar(&wrappedOnly, "wrapped-only", false, "without the plaintext, for somebody else to unwrap")
	c.RunE = func(c *cobra.Command, args []string) error {
		encryption, err := pairs()
		if err != nil {
			return err
		}
		return a.with(c, func(ctx context.Context, server *client.Client) error {
			out, err := server.DataKey(ctx, args[0], encryption, !wrappedOnly)
			if err != nil {
				return err
			}
			return a.print(out, func(t *cli.Table) {
				if !wrappedOnly {
					t.Row("plaintext", base64.StdEncoding.EncodeToString(out.Plaintext))
				}
				t.Row("wrapped", out.Wrapped)
			})
		})
	}
	return c
}

func (a *app) rewrapCommand() *cobra.Command {
	c := &cobra.Command{Use: "rewrap", Short: "Move ciphertexts to the newest version of their key", Args: exactly(0),
		Long:    "Reads ciphertexts from standard input, one a line, and writes each under the newest version of its key.\nThe plaintext never leaves the server. All share one encryption context.",
		Example: "  sealwright rewrap --context tenant=42 < sealed > resealed"}
	pairs := contextFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		encryption, err := pairs()
		if err != nil {
			return err
		}
		lines, err := a.readLines()
		if err != nil {
			return err
		}
		return a.with(c, func(ctx context.Context, server *client.Client) error {
			progress := cli.NewProgress(a.problems, "rewrapping")
			defer progress.Done()
			for i, line := range lines {
				out, err := server.Rewrap(ctx, line, encryption)
				if err != nil {
					return fmt.Errorf("rewrapping ciphertext %d of %d (those before it are done): %w", i+1, len(lines), err)
				}
				if err := a.print(out, func(t *cli.Table) { t.Row(out.Ciphertext) }); err != nil {
					return err
				}
				progress.Set(int64(i+1), int64(len(lines)))
			}
			return nil
		})
	}
	return c
}

// readLines reads ciphertexts, one a line.
func (a *app) readLines() ([]string, error) {
	var lines []string
	scanner := bufio.NewScanner(a.in)
	scanner.Buffer(nil, 4*api.MaxPlaintext)
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	if len(lines) == 0 {
		return nil, cli.Misuse("give ciphertexts on standard input, one a line: sealwright rewrap < sealed", "standard input is empty")
	}
	return lines, nil
}
