// Renders a TEMPLATE with Go's own text/template, called the way Ollama's server calls it for a template that names .Messages.
//
//	echo '{"template": "...", "conversations": [[{"role": "user", "content": "Hi"}]]}' | go run ./tests/go_template
//
// Standard output is a JSON list: the prompt of each conversation. Any error ends the program with status 1.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"
)

// Message has the fields of Ollama's api.Message that a template may read.
type Message struct {
	Role      string `json:"role"`
	Content   string `json:"content"`
	Thinking  string
	ToolCalls []any
}

type request struct {
	Template      string      `json:"template"`
	Conversations [][]Message `json:"conversations"`
}

var functions = template.FuncMap{
	"json": func(value any) string {
		text, _ := json.Marshal(value)
		return string(text)
	},
	"currentDate":   func(...string) string { return time.Now().Format("2006-01-02") },
	"yesterdayDate": func(...string) string { return time.Now().AddDate(0, 0, -1).Format("2006-01-02") },
}

// collate joins neighbors of one role by an empty line and gathers the system messages, which stay in their places.
func collate(messages []Message) (string, []*Message) {
	var system []string
	var collated []*Message
	for _, message := range messages {
		message := message
		if message.Role == "system" {
			system = append(system, message.Content)
		}
		if count := len(collated); count > 0 && collated[count-1].Role == message.Role {
			collated[count-1].Content += "\n\n" + message.Content
		} else {
			collated = append(collated, &message)
		}
	}
	return strings.Join(system, "\n\n"), collated
}

func run() error {
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(asked.Template)
	if err != nil {
		return err
	}
	prompts := []string{}
	for _, messages := range asked.Conversations {
		system, collated := collate(messages)
		var prompt strings.Builder
		data := map[string]any{"System": system, "Messages": collated, "Tools": nil, "Response": ""}
		if err := parsed.Execute(&prompt, data); err != nil {
			return err
		}
		prompts = append(prompts, prompt.String())
	}
	return json.NewEncoder(os.Stdout).Encode(prompts)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
