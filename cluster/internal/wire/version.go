package wire

import (
	"errors"
	"fmt"
	"strings"
)

// ErrVersion means that a peer speaks another version of the protocol.
var ErrVersion = errors.New("the node there runs another version of choked: run one version on all nodes of a cluster")

// explainVersion returns err, with [ErrVersion] if the two sides of a handshake have
// no protocol in common. Package crypto/tls has no error value for that.
func explainVersion(err error) error {
	if err == nil {
		return nil
	}
	ours := strings.Contains(err.Error(), "no application protocol")                                                         // dialing
	theirs := strings.Contains(err.Error(), "unsupported application protocols") && strings.Contains(err.Error(), "choked-") // accepting
	if !ours && !theirs {
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrVersion)
}
