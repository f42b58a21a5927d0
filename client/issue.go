package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/sealwright/sealwright/api"
)

// Issued is a certificate and the key that was made for it here.
type Issued struct {
	Info  api.Certificate
	Leaf  *x509.Certificate
	Chain []byte // PEM: the leaf, then the issuers below the root: what a server sends
	CA    []byte // PEM: the root
	Key   *ecdsa.PrivateKey
}

// Issue makes a P-256 key, has a certificate issued for it and checks that it
// is for that key and under the root that came with it. in.CSR must be empty.
func (c *Client) Issue(ctx context.Context, in api.IssueRequest) (*Issued, error) {
	if in.CSR != "" {
		return nil, fmt.Errorf("%w: Issue makes the CSR; IssueCertificate takes one", api.ErrInvalid)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	// The names are in the request; the CSR proves possession of the key.
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		return nil, fmt.Errorf("making a CSR: %w", err)
	}
	in.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	answer, err := c.IssueCertificate(ctx, in)
	if err != nil {
		return nil, err
	}
	issued := &Issued{Info: answer.Certificate, Chain: []byte(answer.PEM + answer.Chain), CA: []byte(answer.CA), Key: private}
	if issued.Leaf, err = checkIssued(issued); err != nil {
		return nil, fmt.Errorf("checking the certificate that was issued: %w", err)
	}
	return issued, nil
}

func checkIssued(i *Issued) (*x509.Certificate, error) {
	keyPEM, err := i.KeyPEM()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(i.Chain, keyPEM) // of another key: an error
	if err != nil {
		return nil, fmt.Errorf("%w: %w", api.ErrIntegrity, err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(i.CA) {
		return nil, fmt.Errorf("%w: it came without a root", api.ErrIntegrity)
	}
	between.AppendCertsFromPEM(i.Chain)
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", api.ErrIntegrity, err)
	}
	return pair.Leaf, nil
}

// KeyPEM returns the private key as PKCS#8 PEM.
func (i *Issued) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(i.Key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// TLS returns the certificate for use in a tls.Config.
func (i *Issued) TLS() (tls.Certificate, error) {
	keyPEM, err := i.KeyPEM()
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(i.Chain, keyPEM)
}
