package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/redisstore"
)

func ExampleOpen() {
	server, err := miniredis.Run() // in place of a Redis server
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	store, err := redisstore.Open("redis://"+server.Addr()+"/0", redisstore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	limiter, err := choke.Limiter("openai_chat", choked.MustLimits("requests 2/m"), nil)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		v, err := limiter.Allow(context.Background(), choked.Cost{Requests: 1})
		fmt.Println(v.OK, err)
	}
	// Output:
	// true <nil>
	// true <nil>
	// false <nil>
}

// A store shares a client with the rest of the program, which closes it after the
// store.
func ExampleNew() {
	server, err := miniredis.Run() // in place of a Redis server
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
	defer client.Close()
	store := redisstore.New(client, redisstore.Config{Prefix: "ratelimit:"})
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	limiter, err := choke.Limiter("openai_chat", choked.MustLimits("requests 2/m"), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(limiter.Wait(context.Background(), choked.Cost{Requests: 1}))
	fmt.Println(server.Keys())
	// Output:
	// <nil>
	// [ratelimit:openai_chat]
}

// A store whose server is away fails after Timeout with the same error as any other
// store.
func ExampleOpen_unavailable() {
	store, err := redisstore.Open("redis://127.0.0.1:1", redisstore.Config{Timeout: 100 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	err = store.Adjust(context.Background(), choked.Adjustment{Key: "openai_chat", Limits: choked.MustLimits("requests 2/m")})
	fmt.Println(errors.Is(err, bucket.ErrUnavailable))
	// Output: true
}
