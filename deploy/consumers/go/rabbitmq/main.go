// Takes each notification from RabbitMQ into a database once, and puts aside what cannot be handled.
//
// go run ./rabbitmq; the environment that it needs: deploy/docs/consuming.md.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	_ "modernc.org/sqlite"
)

const schema = `
CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id));
CREATE TABLE IF NOT EXISTS notifications (source TEXT, id TEXT, sequence TEXT, type TEXT, body TEXT);`

// poison is an error that will come again with the same notification, which is then put aside. After any other the
// program ends, and the notification comes again when it is started.
type poison struct{ error }

// handle is to be replaced by your service's work. Write through tx: it is committed together with the id.
func handle(tx *sql.Tx, attributes map[string]string, body []byte) error {
	var notification struct{ TypeWebhook string }
	if err := json.Unmarshal(body, &notification); err != nil {
		return poison{err}
	}
	if _, err := tx.Exec("INSERT INTO notifications VALUES (?, ?, ?, ?, ?)",
		attributes["source"], attributes["id"], attributes["sequence"], attributes["type"], string(body)); err != nil {
		return err
	}
	fmt.Println(attributes["idinstance"], attributes["sequence"], notification.TypeWebhook)
	return nil
}

func accept(database *sql.DB, message amqp.Delivery) error {
	attributes := map[string]string{}
	for name, value := range message.Headers {
		attributes[strings.TrimPrefix(name, "cloudEvents_")] = fmt.Sprint(value)
	}
	if attributes["source"] == "" || attributes["id"] == "" {
		return poison{errors.New("no header cloudEvents_source or cloudEvents_id")}
	}
	tx, err := database.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback() // Nothing is left to roll back after the commit.
	result, err := tx.Exec("INSERT OR IGNORE INTO seen VALUES (?, ?)", attributes["source"], attributes["id"])
	if err != nil {
		return err
	}
	if rows, err := result.RowsAffected(); err != nil || rows == 0 {
		return err
	}
	if err := handle(tx, attributes, message.Body); err != nil {
		return err
	}
	return tx.Commit()
}

func dial() (*amqp.Connection, error) {
	config := &tls.Config{}
	if file := os.Getenv("AMQP_CA_FILE"); file != "" {
		authority, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(authority)
	}
	return amqp.DialTLS(os.Getenv("AMQP_URI"), config)
}

// consume works until it is asked to end, or the connection is lost; what the database refuses ends the program.
func consume(ctx context.Context, database *sql.DB) error {
	connection, err := dial()
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Qos(100, 0, false); err != nil {
		return err
	}
	messages, err := channel.Consume(os.Getenv("AMQP_QUEUE"), "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case message, isOpen := <-messages:
			if !isOpen {
				return errors.New("the connection is lost, or the queue deleted")
			}
			err := accept(database, message)
			if bad := (poison{}); errors.As(err, &bad) {
				log.Printf("put aside: %s: %v", message.MessageId, bad)
				err = message.Reject(false) // To the queue's dead-letter exchange.
			} else if err != nil {
				log.Fatal(err)
			} else {
				err = message.Ack(false)
			}
			if err != nil {
				return err
			}
		}
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	database, err := sql.Open("sqlite", cmp.Or(os.Getenv("DATABASE"), "notifications.sqlite"))
	if err != nil {
		log.Fatal(err)
	}
	defer database.Close()
	if _, err := database.Exec(schema); err != nil {
		log.Fatal(err)
	}
	for ctx.Err() == nil {
		if err := consume(ctx, database); err != nil {
			log.Print("connecting again: ", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}
