package choked_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choked/choked"
)

func ExampleNew() {
	store := choked.NewLocal() // one process; a cluster.Node joins many
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close() // before the store: it returns what is leased

	chat, err := choke.Limiter("chat", choked.MustLimits("requests 50/s; tokens 100000/m"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(chat.Key(), "is limited to", chat.Limits())
	// Output: chat is limited to requests 50/s; tokens 100000/m
}

func ExampleChoke_Limiter() {
	store := choked.NewLocal()
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()

	embed, err := choke.Limiter("embed", choked.MustLimits("requests 500/m,10000/d"), nil)
	fmt.Println(err)
	_, err = choke.Limiter("embed", choked.MustLimits("requests 600/m"), nil)
	fmt.Println(err)
	embed.Close()
	_, err = choke.Limiter("embed", choked.MustLimits("requests 600/m"), nil) // now they can change
	fmt.Println(err)
	// Output:
	// <nil>
	// choked: key "embed": limits "requests 600/m": open limiters of this worker have "requests 500/m,10000/d"
	// <nil>
}

func ExampleLimiter_Wait() {
	store := choked.NewLocal()
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	chat, _ := choke.Limiter("chat", choked.MustLimits("requests 2/h"), nil)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 3 {
		err := chat.Wait(ctx, choked.Cost{Requests: 1})
		fmt.Println(err == nil, errors.Is(err, choked.ErrDeadline)) // the third would take half an hour
	}
	err := chat.Wait(ctx, choked.Cost{Requests: 3})
	fmt.Println(err)
	// Output:
	// true false
	// true false
	// false true
	// choked: key "chat": cost exceeds burst: 3 requests asked, at most 2 fit in "2/h"
}

func ExampleLimiter_Allow() {
	store := choked.NewLocal()
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	chat, _ := choke.Limiter("chat", choked.MustLimits("requests 1/h"), nil)

	for range 2 {
		v, err := chat.Allow(context.Background(), choked.Cost{Requests: 1})
		fmt.Println(v.OK, v.RetryAfter.Round(time.Minute), err)
	}
	// Output:
	// true 0s <nil>
	// false 1h0m0s <nil>
}

func ExampleReservation() {
	store := choked.NewLocal()
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	chat, _ := choke.Limiter("chat", choked.MustLimits("tokens 1000/h"), nil)
	defer chat.Close()

	r, err := chat.Reserve(context.Background(), choked.Cost{Tokens: 600})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Done() // changes nothing after Settle or Cancel
	// The call is made, and the provider has counted 900: 300 more are charged.
	fmt.Println(r.Settle(choked.Cost{Tokens: 900}))
	fmt.Println(r.Settle(choked.Cost{Tokens: 900})) // the first one counts
	// Output:
	// <nil>
	// <nil>
}

func ExampleReservation_Settle() {
	store := choked.NewLocal()
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	chat, _ := choke.Limiter("chat", choked.MustLimits("tokens 1000/h"), nil)
	defer chat.Close()

	r, _ := chat.Reserve(context.Background(), choked.Cost{Tokens: 600})
	fmt.Println(r.Settle(choked.Cost{Tokens: -1})) // the reservation stays open
	err := r.Settle(choked.Cost{Tokens: 2_000_000})
	fmt.Println(errors.Is(err, choked.ErrUsage), err)
	// Output:
	// choked: key "chat": settle: invalid usage: usage of -1 tokens: cost of -1 tokens: want 0 to 1000000000000 tokens
	// true choked: key "chat": settle: invalid usage: usage of 2000000 tokens for a reservation of 600 tokens: charged 10600 tokens, at most 10 bursts beyond it
}

// Reply is what a provider answers.
type Reply struct {
	Text   string
	Tokens int64 // of prompt and reply, as the provider counted them
}

// Used makes a Reply a [choked.Usage].
func (r *Reply) Used() (choked.Cost, bool) { return choked.Cost{Tokens: r.Tokens}, r.Tokens > 0 }

// bytesOver4 is an estimator of prompts by OpenAI's rule of thumb for English text.
type bytesOver4 struct{}

func (bytesOver4) Estimate(in any) (choked.Cost, error) {
	return choked.Cost{Input: int64(len(fmt.Sprint(in)))/4 + 1}, nil
}

func chatAPI(_ context.Context, prompt string) (*Reply, error) {
	return &Reply{Text: "You said: " + prompt, Tokens: 12}, nil
}

func ExampleWrap() {
	store := choked.NewLocal()
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	chat, err := choke.Limiter("openai_chat", choked.MustLimits("requests 50/s; tokens 100000/m"), bytesOver4{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ask := choked.Wrap(chat, chatAPI)
	reply, err := ask(context.Background(), "hello") // estimated, queued in turn, admitted, settled
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(reply.Text)
	// Output: You said: hello
}

func ExampleWrapUsage() {
	store := choked.NewLocal()
	defer store.Close()
	choke := choked.New(store)
	defer choke.Close()
	chat, _ := choke.Limiter("claude", choked.MustLimits("input 40000/m; output 8000/m"), bytesOver4{})

	type response struct{ Usage map[string]int64 }
	call := func(context.Context, string) (response, error) {
		return response{Usage: map[string]int64{"input_tokens": 7, "output_tokens": 30}}, nil
	}
	ask := choked.WrapUsage(chat, call, func(r response) (choked.Cost, bool) {
		return choked.Cost{Input: r.Usage["input_tokens"], Output: r.Usage["output_tokens"]}, r.Usage != nil
	})
	_, err := ask(context.Background(), "What is a token?")
	fmt.Println(chat.Stats().Spent, err) // as estimated; the rest is charged after the reply
	// Output: 5 input tokens <nil>
}

func ExampleMustLimits() {
	fmt.Println(choked.MustLimits("requests 50/s; tokens 100000/m"))
	fmt.Println(choked.MustLimits("requests 500/m,10000/d")) // both hold
	fmt.Println(choked.MustLimits("requests 50/s burst 10")) // at most 10 at once
	// Output:
	// requests 50/s; tokens 100000/m
	// requests 500/m,10000/d
	// requests 50/s burst 10
}

func ExampleParseLimits() {
	_, err := choked.ParseLimits("requests 50 a second")
	fmt.Println(err)
	// Output: choked: limit on requests: rate "50 a second": want "50/s", "100000/m", "5/10s", "10/h", "50/s burst 10", "500/m window", or "10000/d reset UTC"
}
