package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
)

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Create, rotate and use keys", Example: "  sealwright key list"}
	c.AddCommand(a.keyCreate(), a.keyList(), a.keyDescribe(),
		a.keyAct("rotate", "Add a version; older ones go on decrypting, sealwright rewrap moves ciphertexts", (*client.Client).RotateKey),
		a.keyAct("enable", "Switch a key on", (*client.Client).EnableKey),
		a.keyAct("disable", "Switch a key off at once", (*client.Client).DisableKey),
		a.keySign(), a.keyVerify(), a.keyPublic())
	return c
}

func keyRow(t *cli.Table, k api.Key) {
	t.Row(k.Name, k.Tier, k.Algorithm, k.State, k.CurrentVersion, k.Owner, k.Classification, stamp(k.CreatedAt))
}

func keyHead(t *cli.Table) {
	t.Row("NAME", "TIER", "ALGORITHM", "STATE", "VERSION", "OWNER", "CLASS", "CREATED")
}

func (a *app) printKey(k api.Key) error {
	return a.print(k, func(t *cli.Table) { keyHead(t); keyRow(t, k) })
}

func (a *app) keyCreate() *cobra.Command {
	var in api.CreateKeyRequest
	c := &cobra.Command{Use: "create NAME", Short: "Create a key named environment/service/name", Args: exactly(1),
		Long: "Creates a key. Its name says where it belongs: ENVIRONMENT/SERVICE/NAME, each of lower-case\nletters, digits and hyphens. A key that encrypts has the tier wrapped, one that signs the tier device.",
		Example: `  sealwright key create dev/payments/orders
  sealwright key create dev/payments/release --tier device --algorithm ecdsa-p256`,
		RunE: func(c *cobra.Command, args []string) error {
			in.Name = args[0]
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				k, err := server.CreateKey(ctx, in)
				if err != nil {
					return err
				}
				return a.printKey(k)
			})
		}}
	c.Flags().StringVar(&in.Tier, "tier", "", "`TIER` where it works: wrapped (in locked memory, the default) or device (inside the hardware, every time)")
	c.Flags().StringVar(&in.Algorithm, "algorithm", "", "`NAME`: aes-256 (wrapped, the default) encrypts, ecdsa-p256 (device, the default) signs")
	c.Flags().StringVar(&in.Owner, "owner", "", "`WHO` answers for it; policies may use it")
	c.Flags().StringVar(&in.Classification, "classification", "", "`WORD` for how sensitive it is; policies may use it")
	return c
}

// pages calls fetch for page after page until limit items are had or the list ends.
func pages(limit int, fetch func(client.Page) (n int, next string, err error)) error {
	page := client.Page{}
	for had := 0; ; {
		page.Limit = 0
		if limit > 0 {
			page.Limit = min(limit-had, api.MaxPage)
		}
		n, next, err := fetch(page)
		if err != nil {
			return err
		}
		had += n
		if next == "" || limit > 0 && had >= limit {
			return nil
		}
		page.After = next
	}
}

func (a *app) keyList() *cobra.Command {
	var limit int
	c := &cobra.Command{Use: "list", Short: "List the keys you may describe", Args: exactly(0),
		Example: "  sealwright key list --environment dev --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				all := api.KeyList{Keys: []api.Key{}}
				err := pages(limit, func(page client.Page) (int, string, error) {
					list, err := server.ListKeys(ctx, a.environment, page)
					all.Keys = append(all.Keys, list.Keys...)
					all.Next = list.Next
					return len(list.Keys), list.Next, err
				})
				if err != nil {
					return err
				}
				return a.print(all, func(t *cli.Table) {
					keyHead(t)
					for _, k := range all.Keys {
						keyRow(t, k)
					}
				})
			})
		}}
	c.Flags().IntVar(&limit, "limit", 0, "at most `N`; 0 for all")
	return c
}

func (a *app) keyDescribe() *cobra.Command {
	return &cobra.Command{Use: "describe NAME", Short: "Show a key and its versions", Args: exactly(1),
		Example: "  sealwright key describe dev/payments/orders",
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				k, err := server.DescribeKey(ctx, args[0])
				if err != nil {
					return err
				}
				return a.print(k, func(t *cli.Table) {
					keyHead(t)
					keyRow(t, k)
					for _, v := range k.Versions {
						t.Row(fmt.Sprintf("  version %d", v.Version), "", "", v.State, v.Version, "", "", stamp(v.CreatedAt))
					}
				})
			})
		}}
}

func (a *app) keyAct(verb, short string, act func(*client.Client, context.Context, string) (api.Key, error)) *cobra.Command {
	return &cobra.Command{Use: verb + " NAME", Short: short, Args: exactly(1), Example: "  sealwright key " + verb + " dev/payments/orders",
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				k, err := act(server, ctx, args[0])
				if err != nil {
					return err
				}
				return a.printKey(k)
			})
		}}
}

// digest hashes standard input, of any size; what is signed never crosses the wire.
func (a *app) digest() ([]byte, error) {
	h := sha256.New()
	if _, err := io.Copy(h, a.in); err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	return h.Sum(nil), nil
}

func (a *app) keySign() *cobra.Command {
	var raw bool
	c := &cobra.Command{Use: "sign NAME", Short: "Sign standard input (its SHA-256)", Args: exactly(1),
		Example: `  sealwright key sign dev/payments/release --raw < release.tar > release.sig
  openssl dgst -sha256 -verify release.pem -signature release.sig release.tar`,
		RunE: func(c *cobra.Command, args []string) error {
			digest, err := a.digest()
			if err != nil {
				return err
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				s, err := server.Sign(ctx, args[0], api.SignRequest{Digest: digest})
				if err != nil {
					return err
				}
				if raw {
					_, err = a.out.Write(s.Signature)
					return err
				}
				return a.print(s, func(t *cli.Table) { t.Row(base64.StdEncoding.EncodeToString(s.Signature)) })
			})
		}}
	c.Flags().BoolVar(&raw, "raw", false, "write the signature's bytes (ASN.1 DER) instead of base64")
	return c
}

func (a *app) keyVerify() *cobra.Command {
	var file string
	var number int64
	c := &cobra.Command{Use: "verify NAME --signature FILE", Short: "Check a signature over standard input", Args: exactly(1),
		Example: "  sealwright key verify dev/payments/release --signature release.sig < release.tar",
		RunE: func(c *cobra.Command, args []string) error {
			signature, err := readSignature(file)
			if err != nil {
				return err
			}
			digest, err := a.digest()
			if err != nil {
				return err
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				v, err := server.Verify(ctx, args[0], api.VerifyRequest{Digest: digest, Signature: signature, Version: number})
				if err != nil {
					return err
				}
				if !v.Valid {
					return fmt.Errorf("the signature is NOT by version %d of %s over this input", v.Version, v.Key)
				}
				return a.print(v, func(t *cli.Table) { t.Row(fmt.Sprintf("valid: by version %d of %s", v.Version, v.Key)) })
			})
		}}
	c.Flags().StringVar(&file, "signature", "", "`FILE` of the signature, base64 or DER (required)")
	c.Flags().Int64Var(&number, "version", 0, "`N` of the key; the current one by default")
	return c
}

// readSignature reads a signature in either form of key sign.
func readSignature(file string) ([]byte, error) {
	if file == "" {
		return nil, cli.Misuse("--signature FILE, as key sign wrote it", "no signature given")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the signature: %w", err)
	}
	if decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(data))); err == nil {
		return decoded, nil
	}
	return data, nil
}

func (a *app) keyPublic() *cobra.Command {
	var number int64
	c := &cobra.Command{Use: "public-key NAME", Short: "Print the public half of a key, PEM", Args: exactly(1),
		Example: "  sealwright key public-key dev/payments/release > release.pem",
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				p, err := server.PublicKey(ctx, args[0], number)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.print(p, nil)
				}
				_, err = io.WriteString(a.out, p.PEM)
				return err
			})
		}}
	c.Flags().Int64Var(&number, "version", 0, "`N` of the key; the current one by default")
	return c
}
