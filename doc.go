// Package choked limits what many workers together ask of one provider
// account: so many requests a second and so many LLM tokens a minute.
package choked
