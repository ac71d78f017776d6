package server_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/choked/choked"
	"github.com/choked/choked/server"
)

func ExampleNew() {
	service := httptest.NewServer(server.New(server.Config{Store: choked.NewLocal()}))
	defer service.Close()
	for range 2 {
		response, err := http.Get(service.URL + "/v2/acquire?key=reports&request_limit=1/h&wait=0")
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		fmt.Println(response.StatusCode, response.Header.Get("RateLimit-Policy"), response.Header.Get("Retry-After") != "")
	}
	// Output:
	// 200 "requests";q=1;w=3600 false
	// 429 "requests";q=1;w=3600 true
}
