package wire

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"time"
)

// Secret admits its holders to a cluster. All ways to print or encode it hide it.
type Secret string

const redacted = "[secret]"

// Format implements [fmt.Formatter], for all verbs.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// key derives a key for one purpose. It reveals neither the secret nor the key for
// another purpose.
func (s Secret) key(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte(s), nil, "choked/1 "+purpose, 32)
}

// gossipKey returns the key that seals packets (AES-256-GCM).
func (s Secret) gossipKey() ([]byte, error) { return s.key("gossip") }

// authority returns the certificate authority that all holders of s share. Each holder
// derives the same key and makes its own certificate for that key.
func (s Secret) authority() (*x509.Certificate, ed25519.PrivateKey, error) {
	seed, err := s.key("certificate authority")
	if err != nil {
		return nil, nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "choked cluster"},
		NotBefore: always, NotAfter: forever,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// Certificates are valid at all times. They live no longer than a process, and the
// wall clocks of members need not agree.
var (
	always  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// serverName is the name in every member's certificate. Members are told apart by
// the node id in their hello.
const serverName = "choked"

// credentials returns the TLS configuration of a holder of secret. It proves that the
// node holds secret, and trusts holders of secret and of the previous ones. Nodes
// that hold only a previous secret trust it, too: the authority of that secret has
// signed the present authority's certificate.
func credentials(secret Secret, previous []Secret) (*tls.Config, error) {
	ca, caKey, err := secret.authority()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	var vouchers [][]byte
	for _, s := range previous {
		before, beforeKey, err := s.authority()
		if err != nil {
			return nil, err
		}
		pool.AddCert(before)
		voucher, err := x509.CreateCertificate(rand.Reader, ca, before, ca.PublicKey, beforeKey)
		if err != nil {
			return nil, err
		}
		vouchers = append(vouchers, voucher)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: always, NotAfter: forever, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, public, caKey)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: append([][]byte{der}, vouchers...), PrivateKey: private}},
		RootCAs:      pool, ServerName: serverName,
		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		// By default TLS adds a key exchange that withstands quantum computers. It costs
		// a third of a handshake, and the messages of members are worthless a minute
		// later.
		CurvePreferences:       []tls.CurveID{tls.CurveP256},
		SessionTicketsDisabled: true, // a resumed session would outlive a secret that was dropped
	}, nil
}
