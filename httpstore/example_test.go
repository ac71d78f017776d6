package httpstore_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"

	"github.com/choked/choked"
	"github.com/choked/choked/httpstore"
	"github.com/choked/choked/server"
)

func ExampleOpen() {
	// The service, which usually is another process: choked serve.
	service := httptest.NewServer(server.New(server.Config{Store: choked.NewLocal()}))
	defer service.Close()

	store, err := httpstore.Open(httpstore.Config{URL: service.URL, HTTP1: true})
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
