// Takes each notification from Kafka into a database once, and puts aside what cannot be handled.
//
// go run ./kafka; the environment that it needs: deploy/docs/consuming.md.
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

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
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

func accept(database *sql.DB, record *kgo.Record) error {
	attributes := map[string]string{}
	for _, header := range record.Headers {
		attributes[strings.TrimPrefix(header.Key, "ce_")] = string(header.Value)
	}
	if attributes["source"] == "" || attributes["id"] == "" {
		return poison{errors.New("no header ce_source or ce_id")}
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
	if err := handle(tx, attributes, record.Value); err != nil {
		return err
	}
	return tx.Commit()
}

func connection() ([]kgo.Opt, error) {
	options := []kgo.Opt{kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA_BOOTSTRAP_SERVERS"), ",")...)}
	file, user, password := os.Getenv("KAFKA_CA_FILE"), os.Getenv("KAFKA_USERNAME"), os.Getenv("KAFKA_PASSWORD")
	config := &tls.Config{}
	if file != "" {
		authority, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(authority)
	}
	if file != "" || user != "" {
		options = append(options, kgo.DialTLSConfig(config))
	}
	if user != "" {
		switch mechanism := cmp.Or(os.Getenv("KAFKA_SASL_MECHANISM"), "PLAIN"); mechanism {
		case "PLAIN":
			options = append(options, kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()))
		case "SCRAM-SHA-256":
			options = append(options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha256Mechanism()))
		case "SCRAM-SHA-512":
			options = append(options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha512Mechanism()))
		default:
			return nil, fmt.Errorf("no such mechanism: %s", mechanism)
		}
	}
	return options, nil
}

func consume(ctx context.Context, database *sql.DB, client *kgo.Client) error {
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 100)
		fetches.EachError(func(_ string, _ int32, err error) {
			if ctx.Err() == nil {
				log.Print(err) // The client tries again by itself.
			}
		})
		for _, record := range fetches.Records() {
			if ctx.Err() != nil {
				return nil
			}
			err := accept(database, record)
			if bad := (poison{}); errors.As(err, &bad) {
				log.Printf("put aside: partition %d, offset %d: %v", record.Partition, record.Offset, bad)
				headers := append(record.Headers, kgo.RecordHeader{Key: "reason", Value: []byte(bad.Error())})
				topic := os.Getenv("KAFKA_DEAD_LETTER_TOPIC")
				letter := &kgo.Record{Topic: topic, Key: record.Key, Value: record.Value, Headers: headers}
				err = client.ProduceSync(context.Background(), letter).FirstErr()
			}
			if err != nil {
				return err
			}
			if err := client.CommitRecords(context.Background(), record); err != nil {
				// The broker is away, or the partition has another consumer by now, which finds it in `seen`.
				log.Print("not committed: ", err)
			}
		}
	}
	return nil
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	database, err := sql.Open("sqlite", cmp.Or(os.Getenv("DATABASE"), "notifications.sqlite"))
	if err != nil {
		return err
	}
	defer database.Close()
	if _, err := database.Exec(schema); err != nil {
		return err
	}
	options, err := connection()
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(options,
		kgo.ConsumerGroup(os.Getenv("KAFKA_GROUP")),
		kgo.ConsumeTopics(os.Getenv("KAFKA_TOPIC")),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(10*time.Second), // For so long its partitions wait for one that was killed.
	)...)
	if err != nil {
		return err
	}
	defer client.Close()
	return consume(ctx, database, client)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
