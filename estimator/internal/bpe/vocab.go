package bpe

import (
	"errors"
	"fmt"
	"math/bits"
)

// none is the id of a missing token.
const none = -1

// Vocab maps byte strings to token ids. It is immutable and safe for concurrent use.
type Vocab struct {
	arena   string     // the bytes of all tokens, by id
	offsets []uint32   // token id is arena[offsets[id]:offsets[id+1]]
	slots   []uint64   // hash table with open addressing: upper half of the hash, id + 1
	bytes   [256]int32 // ids of the tokens of one byte
	twos    []int32    // ids of the tokens of two bytes, or none
	longest int        // size of the longest token, in bytes
}

// NewVocab returns a vocabulary whose token id is arena[offsets[id]:offsets[id+1]].
// An id with an empty token is not in use. The error names a token that occurs
// twice, or a byte without a token: byte-level BPE needs all of them to encode any
// text.
func NewVocab(arena string, offsets []uint32) (*Vocab, error) {
	if len(offsets) < 257 || len(offsets) > 1<<24 {
		return nil, fmt.Errorf("vocabulary of %d tokens: want 256 to %d", len(offsets)-1, 1<<24-1)
	}
	size := 1 << bits.Len(uint(len(offsets)*3/2))
	v := &Vocab{arena: arena, offsets: offsets, slots: make([]uint64, size), twos: make([]int32, 1<<16)}
	for i := range v.bytes {
		v.bytes[i] = none
	}
	for i := range v.twos {
		v.twos[i] = none
	}
	for id := range int32(len(offsets) - 1) {
		if offsets[id] > offsets[id+1] || int(offsets[id+1]) > len(arena) {
			return nil, errors.New("vocabulary with tokens out of order")
		}
		t := v.token(id)
		switch len(t) {
		case 0:
			continue
		case 1:
			v.bytes[t[0]] = id
		case 2:
			v.twos[int(t[0])<<8|int(t[1])] = id
		}
		v.longest = max(v.longest, len(t))
		if err := v.insert(t, id); err != nil {
			return nil, err
		}
	}
	for b, id := range v.bytes {
		if id == none {
			return nil, fmt.Errorf("vocabulary without a token for the byte %#02x", b)
		}
	}
	return v, nil
}

func (v *Vocab) token(id int32) string { return v.arena[v.offsets[id]:v.offsets[id+1]] }

func (v *Vocab) insert(t string, id int32) error {
	h := hash(t)
	mask := uint64(len(v.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		s := v.slots[i]
		if s == 0 {
			v.slots[i] = h>>32<<32 | uint64(id+1)
			return nil
		}
		if s>>32 == h>>32 && v.token(int32(uint32(s))-1) == t {
			return fmt.Errorf("vocabulary with the token %q twice", t)
		}
	}
}

// lookup returns the id of t, or none.
func (v *Vocab) lookup(t string) int32 {
	if len(t) > v.longest {
		return none
	}
	h := hash(t)
	mask := uint64(len(v.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		s := v.slots[i]
		if s == 0 {
			return none
		}
		if s>>32 == h>>32 {
			if id := int32(uint32(s)) - 1; v.token(id) == t {
				return id
			}
		}
	}
}

// hash mixes t eight bytes at a time. It need not resist chosen keys: the table does
// not change after NewVocab, so a text cannot make its probes longer.
func hash(t string) uint64 {
	const k0, k1 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93 // odd, half the bits set
	n := len(t)
	h := uint64(n) * k1
	for len(t) > 8 {
		h = fold(h^load64(t), k0)
		t = t[8:]
	}
	var x uint64
	switch n = len(t); {
	case n == 8:
		x = load64(t)
	case n >= 4:
		x = uint64(load32(t)) | uint64(load32(t[n-4:]))<<32
	case n > 0:
		x = uint64(t[0]) | uint64(t[n/2])<<8 | uint64(t[n-1])<<16
	}
	return fold(h^x, k1)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func load32(t string) uint32 {
	_ = t[3]
	return uint32(t[0]) | uint32(t[1])<<8 | uint32(t[2])<<16 | uint32(t[3])<<24
}

func load64(t string) uint64 {
	_ = t[7]
	return uint64(t[0]) | uint64(t[1])<<8 | uint64(t[2])<<16 | uint64(t[3])<<24 |
		uint64(t[4])<<32 | uint64(t[5])<<40 | uint64(t[6])<<48 | uint64(t[7])<<56
}
