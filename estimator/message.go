package estimator

// Message is one message of a chat, for callers without a message type of their
// own. The messages of a client library are accepted as they are: see [Extract].
type Message struct {
	Role      string     `json:"role"`                 // "system", "user", "assistant" or "tool"; counted as text
	Content   string     `json:"content,omitempty"`    // the text
	Parts     []Part     `json:"parts,omitempty"`      // further texts and images, after Content
	Name      string     `json:"name,omitempty"`       // of the author; "" for none
	ToolCalls []ToolCall `json:"tool_calls,omitempty"` // made by the model in this message
}

// Part is a part of a message: a text, an image, or both.
type Part struct {
	Text     string `json:"text,omitempty"`
	ImageURL string `json:"image_url,omitempty"` // counts as one image; the image itself is not read
	Detail   string `json:"detail,omitempty"`    // "low" for an image at low detail
}

// ToolCall is a call of a tool that the model made earlier in the chat.
type ToolCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // JSON text
}

func (d *decoder) typedMessage(m Message) {
	d.count.Messages++
	d.text(m.Role)
	d.text(m.Content)
	for _, part := range m.Parts {
		d.text(part.Text)
		if part.ImageURL != "" {
			d.image(part.Detail)
		}
	}
	if m.Name != "" {
		d.count.Names++
		d.text(m.Name)
	}
	for _, c := range m.ToolCalls {
		d.count.Calls++
		d.text(c.Name)
		d.text(c.Arguments)
	}
}
