package estimator

// Message is one message of a chat, for callers without a type of their own.
// A client library's messages can be passed as they are: see [Extract].
type Message struct {
	Role      string     `json:"role"`
	Content   string     `json:"content,omitempty"`
	Parts     []Part     `json:"parts,omitempty"` // after Content
	Name      string     `json:"name,omitempty"`
	ToolCalls []ToolCall `json:"tool_calls,omitempty"`
}

// Part is a piece of a message: a text or an image, whichever is set.
type Part struct {
	Text     string `json:"text,omitempty"`
	ImageURL string `json:"image_url,omitempty"` // counted as an image; its bytes are never read
	Detail   string `json:"detail,omitempty"`    // "low" makes the image cheap
}

// ToolCall is a call that the model made earlier in the chat.
type ToolCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // JSON text
}

func (p *Prompt) typedMessage(m Message) {
	p.Messages++
	p.text(m.Role)
	p.text(m.Content)
	for _, part := range m.Parts {
		p.text(part.Text)
		if part.ImageURL != "" {
			p.image(part.Detail)
		}
	}
	if m.Name != "" {
		p.Names++
		p.text(m.Name)
	}
	for _, c := range m.ToolCalls {
		p.Calls++
		p.text(c.Name)
		p.text(c.Arguments)
	}
}
