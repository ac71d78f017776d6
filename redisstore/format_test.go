package redisstore

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// testdata/hash-v1.json was saved by the commit before format 2: a bucket with a lease,
// a waiter and an adjustment. Its numbers would make sense in format 2, as other ones.
func TestAHashOfAnotherFormatIsRefused(t *testing.T) {
	saved, err := os.ReadFile("testdata/hash-v1.json")
	require.NoError(t, err)
	var before, later map[string]string
	require.NoError(t, json.Unmarshal(saved, &before))
	require.NoError(t, json.Unmarshal(saved, &later))
	later["b"] = "3" + before["b"][1:]
	damaged := map[string]string{"b": "2", "l": before["l"]}

	limits, err := bucket.ParseLimits("requests 10/s,600/m; tokens 40000/m")
	require.NoError(t, err)
	id := bucket.LeaseID{Holder: 7, Seq: 1}
	ops := map[string]func(t *testing.T, s *Store) error{
		"ask": func(t *testing.T, s *Store) error {
			_, err := s.Lease(t.Context(), bucket.Ask{Key: "k", ID: id, Limits: limits, Want: bucket.Cost{Requests: 1}})
			return err
		},
		"settle": func(t *testing.T, s *Store) error {
			return s.Settle(t.Context(), []bucket.Settlement{{Key: "k", ID: id}})
		},
		"adjust": func(t *testing.T, s *Store) error {
			return s.Adjust(t.Context(), bucket.Adjustment{Key: "k", Limits: limits, Charge: bucket.Cost{Requests: 1}})
		},
	}
	for _, c := range []struct {
		name, format string
		hash         map[string]string
	}{
		{"of before", "1", before},
		{"of a later release", "3", later},
		{"damaged", "unknown", damaged},
	} {
		for name, op := range ops {
			t.Run(c.name+", "+name, func(t *testing.T) {
				client := mini(t)
				require.NoError(t, client.HSet(t.Context(), "choked:k", c.hash).Err())
				s := New(client, Config{})
				defer s.Close()
				assert.EqualError(t, op(t, s), `redis: the hash "choked:k" has format `+c.format+
					`, and this release reads 2: delete it, use another Config.Prefix, or run the release that wrote it`)
				after, err := client.HGetAll(t.Context(), "choked:k").Result()
				require.NoError(t, err)
				assert.Equal(t, c.hash, after, "the hash was changed")

				other := New(client, Config{Prefix: "v2:"})
				defer other.Close()
				assert.NoError(t, op(t, other), "with another prefix")
				require.NoError(t, client.Del(t.Context(), "choked:k").Err())
				assert.NoError(t, op(t, s), "after it was deleted")
			})
		}
	}
}
