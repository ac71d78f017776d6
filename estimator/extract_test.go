package estimator_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"mime/multipart"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/choked/choked/estimator"
)

type m = map[string]any

// sdkMessage is a message as in a client library: its content marshals itself to
// a string or to parts.
type sdkMessage struct {
	Role    string     `json:"role"`
	Content sdkContent `json:"content"`
}
type sdkContent struct{ parts []string }

func (c sdkContent) MarshalJSON() ([]byte, error) {
	if len(c.parts) == 1 {
		return json.Marshal(c.parts[0])
	}
	var parts []m
	for _, p := range c.parts {
		parts = append(parts, m{"type": "text", "text": p})
	}
	return json.Marshal(parts)
}

const png = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"

// Types whose JSON differs from their text.
type (
	namedBytes  []byte
	untagged    struct{ Role, Content string }
	hidden      struct{ role, content string }
	selfPointer *selfPointer
)

func TestExtractReadsText(t *testing.T) {
	type named string
	text := named("pointed at")
	word := []byte("bytes")
	var anything any = "anything"
	for _, test := range []struct {
		name  string
		input any
		want  []string
	}{
		{"a string", "hello", []string{"hello"}},
		{"an empty string", "", nil},
		{"a string type", named("hello"), []string{"hello"}},
		{"a pointer", &text, []string{"pointed at"}},
		{"a pointer to an interface", &anything, []string{"anything"}},
		{"a pointer to bytes", &word, []string{"bytes"}},
		{"a type of bytes", namedBytes("bytes"), []string{"bytes"}},
		{"several bytes", [][]byte{word, []byte("more")}, []string{"bytes", "more"}},
		{"a pointer to a raw message", &[]json.RawMessage{json.RawMessage(`"quoted"`)}[0], []string{"quoted"}},
		{"strings", []string{"a", "b"}, []string{"a", "b"}},
		{"strings of any type", []any{"a", "b"}, []string{"a", "b"}},
		{"bytes that are text", []byte("not {json}"), []string{"not {json}"}},
		{"bytes that are unknown JSON", []byte(`{"colour":"red"}`), []string{`{"colour":"red"}`}},
		{"bytes that are broken JSON", []byte(`{"messages":[`), []string{`{"messages":[`}},
		{"bytes that are a number", []byte(`7`), []string{`7`}},
		{"bytes that are a list of numbers", []byte(`[1, 2]`), []string{`[1, 2]`}},
		{"bytes that are a table of numbers", []byte(`[[0.5, 1], [2, -3]]`), []string{`[[0.5, 1], [2, -3]]`}},
		{"bytes in a list", []any{"a", word}, []string{"a", "bytes"}},
		{"a string that is a data URL", png, []string{png}},
	} {
		p, err := estimator.Extract(test.input)
		if got := estimator.TallyOf(p); err != nil || !slices.Equal(p.Texts, test.want) || got.Messages != 0 {
			t.Errorf("%s: Extract = %q in %d messages, %v; want %q in none", test.name, p.Texts, got.Messages, err, test.want)
		}
	}
}

func TestExtractReadsMessages(t *testing.T) {
	for _, test := range []struct {
		name  string
		input any
		want  estimator.Tally
	}{
		{"a Message", estimator.Message{Role: "user", Content: "hi", Name: "ann"},
			estimator.Tally{Texts: []string{"user", "hi", "ann"}, Messages: 1, Names: 1}},
		{"Messages with parts and calls", []estimator.Message{
			{Role: "user", Parts: []estimator.Part{{Text: "see"}, {ImageURL: png}, {ImageURL: "https://x/y.png", Detail: "low"}}},
			{Role: "assistant", ToolCalls: []estimator.ToolCall{{Name: "f", Arguments: "{}"}}}},
			estimator.Tally{Texts: []string{"user", "see", "assistant", "f", "{}"}, Messages: 2, Calls: 1, LowImages: 1, Images: 1}},
		{"pointers to Messages", []*estimator.Message{{Role: "user", Name: "ann", Parts: []estimator.Part{{Text: "see"}, {ImageURL: png, Detail: "low"}},
			ToolCalls: []estimator.ToolCall{{Name: "f", Arguments: "{}"}}}},
			estimator.Tally{Texts: []string{"user", "ann", "see", "f", "{}"}, Messages: 1, Names: 1, Calls: 1, LowImages: 1}},
		{"maps", []m{{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi", "name": "ann"}},
			estimator.Tally{Texts: []string{"system", "be kind", "user", "ann", "hi"}, Messages: 2, Names: 1}},
		{"maps of strings", []map[string]string{{"role": "user", "content": "hi"}},
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1}},
		{"bytes in maps", m{"messages": []any{m{"role": "user", "content": []byte("hi")}, m{"role": "user", "content": []any{m{"type": "text", "text": []byte("ho")}}}}},
			estimator.Tally{Texts: []string{"user", "hi", "user", "ho"}, Messages: 2}},
		{"bytes in a map beside Go numbers", m{"messages": []any{m{"role": "user", "content": []byte("hi")}}, "max_tokens": 7},
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1, Output: 7}},
		{"a library's structs", []sdkMessage{{"user", sdkContent{[]string{"a"}}}, {"user", sdkContent{[]string{"b", "c"}}}},
			estimator.Tally{Texts: []string{"user", "a", "user", "b", "c"}, Messages: 2}},
		{"Go types inside a map", m{"messages": []estimator.Message{{Role: "user", Content: "hi"}}, "max_tokens": 7},
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1, Output: 7}},
		{"parts of every kind", []byte(`[{"role":"user","content":["plain",{"type":"text","text":"see"},
			{"type":"image_url","image_url":{"url":"` + png + `","detail":"low"}},{"type":"image_url","image_url":{"url":"https://x/y"}},
			{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}},
			{"type":"file","file":{"file_data":"JVBERi0=","filename":"a.pdf"}}]}]`),
			estimator.Tally{Texts: []string{"user", "plain", "see"}, Messages: 1, LowImages: 1, Images: 1}},
		{"Go types without JSON tags", m{"messages": []untagged{{"user", "hi"}, {"assistant", "ho"}}},
			estimator.Tally{Texts: []string{"hi", "user", "ho", "assistant"}, Messages: 2}},
		{"a role with text under another key", []byte(`[{"role":"user","text":"hi"}]`),
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1}},
		{"a role and an unknown type, with text under another key", []byte(`[{"role":"user","type":"human","text":"hi"}]`),
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1}},
		{"a patch to a file", []byte(`{"model":"gpt-5.1","input":[{"type":"apply_patch_call","call_id":"c","status":"completed",
			"operation":{"type":"update_file","path":"a.py","diff":"-old\n+new"}}]}`),
			estimator.Tally{Texts: []string{"-old\n+new", "a.py", "completed"}}},
		{"messages of unknown types", []byte(`{"messages":[{"type":"human","id":"x","content":[{"type":"news","lines":["a","b"],"n":1,"blob":"` +
			base64Of(1000) + `"},{"kind":"odd"}]},null,7]}`),
			estimator.Tally{Texts: []string{"a", "b", "odd"}, Messages: 1}},
		{"content that is neither text nor parts", []byte(`{"messages":[{"role":"user","content":42},{"role":7,"content":null},{"role":"user","content":[null,[],{}]}]}`),
			estimator.Tally{Texts: []string{"user", "user"}, Messages: 3}},
		{"tool calls and their results", []byte(`[{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function",
			"function":{"name":"weather","arguments":"{\"city\":\"Oslo\"}"}}]},{"role":"tool","tool_call_id":"call_1","content":"rain"}]`),
			estimator.Tally{Texts: []string{"assistant", "weather", `{"city":"Oslo"}`, "tool", "rain"}, Messages: 2, Calls: 1}},
	} {
		p, err := estimator.Extract(test.input)
		checkPrompt(t, test.name, p, err, test.want)
	}
}

func TestExtractReadsRequests(t *testing.T) {
	for _, test := range []struct {
		name, body string
		want       estimator.Tally
	}{
		{"OpenAI chat", `{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":50,"max_tokens":20,"user":"u-1",
			"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}}`,
			estimator.Tally{Texts: []string{"user", "hi", "answer", `{"type":"object"}`}, Messages: 1, Output: 50}},
		{"OpenAI functions", `{"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"weather","description":"Tells the weather.",
			"parameters":{"type":"object","properties":{"unit":{"type":"string","description":"Unit.","enum":["C","F"]},"city":{"type":"string"}}}}}]}`,
			estimator.Tally{Texts: []string{"user", "hi", "weather:Tells the weather", "city:string:", "unit:string:Unit", "C", "F"},
				Messages: 1, Functions: 1, Objects: 1, Properties: 2, Enums: 1, EnumItems: 2}},
		{"OpenAI responses", `{"model":"gpt-5","instructions":"be kind","max_output_tokens":9,"input":[{"role":"user","content":[{"type":"input_text","text":"hi"},
			{"type":"input_image","image_url":"` + png + `"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
			{"type":"function_call_output","call_id":"c","output":"42"},{"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"so"}],"encrypted_content":"gAAAA"}],
			"tools":[{"type":"web_search"},{"type":"function","name":"f","description":"d","parameters":{}}],"text":{"format":{"type":"json_schema","name":"n","schema":{}}}}`,
			estimator.Tally{Texts: []string{"user", "hi", "f", "{}", "42", "so", "be kind", "f:d", "n", "{}"},
				Messages: 5, Names: 1, Images: 1, Functions: 1, Output: 9}},
		{"OpenAI responses with calls at the provider", `{"model":"gpt-5","input":[{"type":"mcp_call","id":"i","name":"n","arguments":"{}","output":"out"},
			{"type":"code_interpreter_call","container_id":"c","code":"1+1","outputs":[{"type":"logs","logs":"2"},{"type":"image","url":"` + png + `"}]},
			{"type":"item_reference","id":"x"}]}`,
			estimator.Tally{Texts: []string{"{}", "n", "out", "1+1", "2"}, Images: 1}},
		{"OpenAI responses from a template", `{"model":"gpt-5","prompt":{"id":"p","version":"2","variables":{"city":"Oslo","ref":{"type":"input_text","text":"T"}}}}`,
			estimator.Tally{Texts: []string{"Oslo", "T"}}},
		{"OpenAI chat with several replies", `{"messages":[{"role":"user","content":"hi"}],"n":3,"max_tokens":50}`,
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1, Output: 150}},
		{"OpenAI tools without a description, and custom ones", `{"messages":[],"tools":[{"type":"function","function":{"name":"now"}},
			{"type":"custom","custom":{"name":"sql","description":"Runs it.","format":{"type":"grammar","grammar":{"definition":"start: x"}}}}]}`,
			estimator.Tally{Texts: []string{"now:", "sql:Runs it", "start: x"}, Functions: 2}},
		{"schemas inside schemas", `{"messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{
			"a":{"anyOf":[{"properties":{"y":{"type":"string"}}},{"type":"null"}]},"b":{"items":{"description":"D","enum":["E"]}}},"$defs":{"X":{"properties":{"z":{}}}}}}}]}`,
			estimator.Tally{Texts: []string{"f:", "a::", "y:string:", "b::", "D", "E", "z::"}, Functions: 1, Objects: 3, Properties: 4, Enums: 1, EnumItems: 1}},
		{"OpenAI responses with a bare string", `{"model":"gpt-5","input":"hi"}`, estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1}},
		{"OpenAI embeddings", `{"model":"text-embedding-3-small","input":"hi"}`, estimator.Tally{Texts: []string{"hi"}}},
		{"OpenAI embeddings of several", `{"model":"text-embedding-3-small","input":["a","b"]}`, estimator.Tally{Texts: []string{"a", "b"}}},
		{"OpenAI embeddings of tokens", `{"model":"text-embedding-3-small","input":[[1,2,3],[4]]}`, estimator.Tally{Tokens: 4}},
		{"OpenAI completions", `{"model":"davinci-002","prompt":"once","suffix":"end","max_tokens":3}`, estimator.Tally{Texts: []string{"once", "end"}, Output: 3}},
		{"Anthropic messages", `{"model":"claude","system":[{"type":"text","text":"be kind","cache_control":{"type":"ephemeral"}}],"max_tokens":1024,
			"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo"}},
			{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERi0"}},
			{"type":"document","title":"T","source":{"type":"text","media_type":"text/plain","data":"plain"}}]},
			{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"EqQB"},{"type":"redacted_thinking","data":"Eu8D"},
			{"type":"tool_use","id":"t","name":"weather","input":{"city":"Oslo"}}]},
			{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"rain"}]}]}],
			"tools":[{"name":"weather","description":"d","input_schema":{"type":"object","properties":{"city":{"type":"string"}}}}]}`,
			estimator.Tally{Texts: []string{"user", "T", "plain", "assistant", "hm", "weather", `{"city":"Oslo"}`, "user", "rain", "be kind", "weather:d", "city:string:"},
				Messages: 4, Images: 1, Calls: 1, Functions: 1, Objects: 1, Properties: 1, Output: 1024}},
		{"Anthropic calls of tools at servers", `{"messages":[{"role":"assistant","content":[{"type":"mcp_tool_use","name":"f","input":{"data":"QUJD","signature":"` +
			base64Of(1000) + `"}},{"type":"bash_code_execution_tool_result","tool_use_id":"t","content":{"type":"bash_code_execution_result","stdout":"so"}}]}],
			"output_format":{"type":"json_schema","schema":{"type":"null"}}}`,
			estimator.Tally{Texts: []string{"assistant", "f", `{"data":"QUJD","signature":""}`, "so", `{"type":"null"}`}, Messages: 1, Calls: 1}},
		{"embeddings of lists of texts", `{"model":"text-embedding-3-small","input":[["a","b"],["c"],[1,2]]}`, estimator.Tally{Texts: []string{"a", "b", "c"}, Tokens: 2}},
		{"Voyage embeddings", `{"model":"voyage-3","input":["a","b"],"input_type":"document"}`, estimator.Tally{Texts: []string{"a", "b"}}},
		{"Voyage multimodal", `{"model":"voyage-multimodal-3","inputs":[{"content":[{"type":"text","text":"a"},{"type":"image_base64","image_base64":"` + png + `"}]}]}`,
			estimator.Tally{Texts: []string{"a"}, Images: 1}},
		{"a line of an OpenAI batch", `{"custom_id":"c","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"max_tokens":5}}`,
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1, Output: 5}},
		{"a line of an Anthropic batch", `{"custom_id":"c","params":{"model":"claude","messages":[{"role":"user","content":"hi"}],"max_tokens":5}}`,
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1, Output: 5}},
		{"Gemini contents", `{"contents":[{"role":"user","parts":[{"text":"hi"},{"inlineData":{"mimeType":"image/png","data":"iVBO"}}]}],"generationConfig":{"maxOutputTokens":8}}`,
			estimator.Tally{Texts: []string{"user", "hi"}, Messages: 1, Images: 1, Output: 8}},
		{"Gemini's other names", `{"contents":[{"role":"user","parts":[{"text":"hi"}]}],"tools":[{"function_declarations":[{"name":"f","description":"d","parameters":{"type":"OBJECT","properties":{"x":{"type":"STRING"}}}}]}],
			"generation_config":{"max_output_tokens":8,"candidate_count":2,"response_schema":{"type":"OBJECT"}}}`,
			estimator.Tally{Texts: []string{"user", "hi", "f:d", "x:STRING:", `{"type":"OBJECT"}`}, Messages: 1, Functions: 1, Objects: 1, Properties: 1, Output: 16}},
		{"a Gemini reply by a schema", `{"contents":[{"role":"user","parts":[{"text":"hi"}]}],"generationConfig":{"responseJsonSchema":{"type":"object"}}}`,
			estimator.Tally{Texts: []string{"user", "hi", `{"type":"object"}`}, Messages: 1}},
	} {
		p, err := estimator.Extract([]byte(test.body))
		checkPrompt(t, test.name+", raw", p, err, test.want)
		p, err = estimator.Extract(json.RawMessage("\ufeff\n " + test.body))
		checkPrompt(t, test.name+", raw message", p, err, test.want)
		var decoded m
		if err := json.Unmarshal([]byte(test.body), &decoded); err != nil {
			t.Fatal(err)
		}
		p, err = estimator.Extract(decoded)
		checkPrompt(t, test.name+", decoded", p, err, test.want)
	}
}

func checkPrompt(t *testing.T, name string, prompt estimator.Prompt, err error, want estimator.Tally) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: Extract: %v", name, err)
		return
	}
	got := estimator.TallyOf(prompt)
	texts := slices.Equal(got.Texts, want.Texts)
	a, b := got, want
	a.Texts, b.Texts = nil, nil
	if !texts || asJSON(a) != asJSON(b) {
		t.Errorf("%s: Extract\n got %s\nwant %s", name, asJSON(got), asJSON(want))
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestExtractCountsTokenIDs(t *testing.T) {
	for _, input := range []any{[]int{1, 2, 3}, []int32{1, 2, 3}, [][]int{{1, 2}, {3}}, []any{1, 2, 3}} {
		p, err := estimator.Extract(input)
		if n := p.Tokens(estimator.Overhead{}); err != nil || n != 3 || len(p.Texts) != 0 {
			t.Errorf("Extract(%v) = %d tokens, %q, %v; want 3", input, n, p.Texts, err)
		}
	}
}

func TestExtractErrorNamesInput(t *testing.T) {
	loop := m{}
	loop["messages"] = []any{loop}
	var self selfPointer
	self = &self
	var round any
	round = &round
	var shared any = "text" // small, but 2⁴⁰ values
	for range 40 {
		shared = m{"a": shared, "b": shared}
	}
	var deep any = "text"
	for range 100_000 {
		deep = []any{deep}
	}
	for _, test := range []struct {
		input any
		want  string
	}{
		{nil, "nil"},
		{7, "int"},
		{true, "bool"},
		{math.NaN(), "float64"},
		{(*estimator.Message)(nil), "Message"},
		{make(chan int), "chan int"},
		{func() {}, "func()"},
		{m{"colour": "red"}, `"colour"`},
		{struct{ Colour string }{"red"}, `"Colour"`},
		{[]any{"a", 7}, "item 1"},
		{[]m{{"role": "user", "content": "x"}, {"colour": "red"}}, `item 1 with keys ["colour"]`},
		{loop, "JSON"},
		{self, "points to itself"},
		{&round, "points to itself"},
		{m{"messages": []any{&round}}, "points to itself"},
		{deep, "JSON"},
		{m{"messages": shared}, "more than 1048576 values"},
		{new(any), "interface"},
		{(*[]byte)(nil), "uint8"},
		{m{"messages": []hidden{{"user", "unseen"}}}, "fields that encoding/json sees"},
		{m{"role": "user", "content": "x", "temperature": math.NaN()}, "NaN"},
	} {
		_, err := estimator.Extract(test.input)
		if !errors.Is(err, estimator.ErrNoText) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "no text") {
			t.Errorf("Extract(%T) = %v, want ErrNoText and %s", test.input, err, test.want)
		}
		if _, err := estimator.Default().Estimate(test.input); !errors.Is(err, estimator.ErrNoText) {
			t.Errorf("Estimate(%T) = %v, want ErrNoText", test.input, err)
		}
	}
}

// multipartBody returns a form with a file, as a client sends it to transcribe audio.
func multipartBody(file []byte) []byte {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	_ = form.WriteField("model", "whisper-1")
	w, _ := form.CreateFormFile("file", "speech.mp3")
	_, _ = w.Write(file)
	_ = form.Close()
	return b.Bytes()
}

func TestExtractRefusesBytesThatAreNeitherJSONNorUTF8(t *testing.T) {
	binary, err := base64.StdEncoding.DecodeString(base64Of(3 << 20))
	if err != nil {
		t.Fatal(err)
	}
	const accepted = "want a string, UTF-8 or JSON as []byte"
	for _, test := range []struct {
		name  string
		input any
		want  []string // in the error
	}{
		{"a file", binary, []string{"3145728 bytes", accepted}},
		{"a multipart form", multipartBody(binary), []string{"multipart form", accepted}},
		{"a raw message", json.RawMessage(binary), []string{"3145728 bytes", accepted}},
		{"a type of bytes", namedBytes("a\xff"), []string{"2 bytes", "(at byte 1)", accepted}},
		{"a pointer to bytes", &binary, []string{"3145728 bytes", accepted}},
		{"an image behind a text", []byte("prompt: \x89PNG\r\n"), []string{"14 bytes", "(at byte 8)", accepted}},
		{"text in Latin-1", []byte("caf\xe9"), []string{"4 bytes", "(at byte 3)", accepted}},
		{"text in UTF-16", []byte("\xff\xfeh\x00i\x00"), []string{"6 bytes", "(at byte 0)", accepted}},
		{"text cut inside a character", []byte("日本")[:5], []string{"5 bytes", "(at byte 3)", accepted}},
		{"broken JSON", []byte("{\"messages\":[\"\xff"), []string{"15 bytes", "(at byte 14)", accepted}},
		{"one of several texts", [][]byte{[]byte("text"), binary}, []string{"item 1", "3145728 bytes", "not UTF-8"}},
	} {
		p, err := estimator.Extract(test.input)
		if !errors.Is(err, estimator.ErrNoText) {
			t.Errorf("%s: Extract = %d texts, %v; want ErrNoText", test.name, len(p.Texts), err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Extract = %v, want an error that names %s", test.name, err, want)
			}
		}
		if !utf8.ValidString(err.Error()) || len(err.Error()) > 300 || strings.Contains(err.Error(), "prompt: ") {
			t.Errorf("%s: Extract = %q, want a short error without the input's content", test.name, err)
		}
		if n, err := estimator.Default(estimator.Output(5)).Estimate(test.input); !n.IsZero() || !errors.Is(err, estimator.ErrNoText) {
			t.Errorf("%s: Estimate = %v, %v; want nothing and ErrNoText", test.name, n, err)
		}
	}
}

func TestExtractReadsUnusualUTF8AndJSON(t *testing.T) {
	form := string(multipartBody([]byte("only text")))
	for _, test := range []struct {
		name  string
		input any
		want  []string
	}{
		{"no bytes", []byte{}, nil},
		{"bytes with a byte order mark", []byte("\ufeffhi"), []string{"\ufeffhi"}},
		{"bytes with control characters", []byte("a\x00\x1bb"), []string{"a\x00\x1bb"}},
		{"bytes with U+FFFD", []byte("a\ufffd"), []string{"a\ufffd"}},
		{"a multipart form of text", []byte(form), []string{form}},
		{"JSON of a known form that is not UTF-8", []byte("{\"input\":\"a\xff\"}"), []string{"a\ufffd"}},
		{"JSON of an unknown form that is not UTF-8", []byte("{\"colour\":\"\xff\"}"), []string{"{\"colour\":\"\xff\"}"}},
		{"a string that is not UTF-8", "caf\xe9", []string{"caf\xe9"}},
	} {
		if p, err := estimator.Extract(test.input); err != nil || !slices.Equal(p.Texts, test.want) {
			t.Errorf("%s: Extract = %q, %v; want %q", test.name, p.Texts, err, test.want)
		}
	}
}

func FuzzExtractReadsBytes(f *testing.F) {
	for _, s := range []string{`{"messages":[{"role":"user","content":[{"type":"text"}]}]}`, `{"input":[[1],{"type":"reasoning"}]}`,
		`[{"parts":[{"functionCall":{"args":{}}}]}]`, `{"tools":[{"functionDeclarations":[{}]}],"contents":3}`, `"x"`, "data:;base64,"} {
		f.Add([]byte(s))
	}
	f.Add([]byte("\xff"))
	f.Add([]byte("[\"\xff\"]"))
	e := estimator.Default(estimator.Output(5))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := e.Estimate(body)
		trimmed := bytes.TrimPrefix(body, []byte("\ufeff"))
		if utf8.Valid(body) || json.Unmarshal(trimmed, new(any)) == nil {
			if err != nil || n.Output != 5 || n.Tokens != n.Input+5 {
				t.Errorf("Estimate(%q) = %v, %v; want the reserve of 5 besides the input: UTF-8 and JSON are always text", body, n, err)
			}
		} else if !n.IsZero() || !errors.Is(err, estimator.ErrNoText) {
			t.Errorf("Estimate(%q) = %v, %v; want nothing and ErrNoText", body, n, err)
		}
	})
}
