// Parses lines with the types generated from the schema: of each the names of its types, and what is printed of it again.
// A body of an unknown kind has no type and stays as it is.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"reflect"

	"types/notification"
)

func main() {
	bodies, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(bodies)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var parsed notification.Notification
		if err := json.Unmarshal(lines.Bytes(), &parsed); err != nil {
			panic(err)
		}
		parts := []interface{}{parsed.GetActualInstance()}
		switch received := parts[0].(type) {
		case *notification.IncomingMessageReceived:
			parts = append(parts, received.MessageData.GetActualInstance())
		case *notification.OutgoingMessageReceived:
			parts = append(parts, received.MessageData.GetActualInstance())
		case *notification.OutgoingAPIMessageReceived:
			parts = append(parts, received.MessageData.GetActualInstance())
		}
		classes := []string{}
		var printed interface{} = parsed
		for _, part := range parts {
			if part == nil {
				classes = []string{}
				printed = json.RawMessage(lines.Bytes())
				break
			}
			classes = append(classes, reflect.TypeOf(part).Elem().Name())
		}
		if err := json.NewEncoder(os.Stdout).Encode(map[string]interface{}{"classes": classes, "body": printed}); err != nil {
			panic(err)
		}
	}
}
