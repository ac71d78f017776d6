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

// Secret admits to a cluster. Nothing that prints or encodes it shows it.
type Secret string

const redacted = "[secret]"

// Format implements [fmt.Formatter], for all verbs.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// key derives a key for one purpose: knowing it tells nothing of the secret, or
// of the key for another purpose.
func (s Secret) key(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte(s), nil, "choked/1 "+purpose, 32)
}

// gossipKey seals packets (AES-256-GCM).
func (s Secret) gossipKey() ([]byte, error) { return s.key("gossip") }

// authority returns the certificate authority that all holders of s share. Each
// derives the same key, and makes a certificate for it of its own.
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

// Certificates hold for all times: they live as long as a process, and whether
// two wall clocks agree is to make no difference.
var (
	always  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// serverName is the name that every member's certificate bears. Who a member is
// among the others, the hello says.
const serverName = "choked"

// credentials returns how a holder of secret proves it to others, and whom it
// trusts: holders of secret and of previous ones. Those who still hold only a
// previous one trust it, too: that one's authority vouches for the present one's.
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
		// The default adds a key exchange that is to withstand quantum computers. It
		// is a third of a handshake's cost, and what members tell each other is worth
		// nothing a minute later.
		CurvePreferences:       []tls.CurveID{tls.CurveP256},
		SessionTicketsDisabled: true, // a resumed session would outlive a secret that was given up
	}, nil
}
