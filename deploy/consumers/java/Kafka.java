import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.UnaryOperator;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import sun.misc.Signal;

/**
 * Takes each notification from Kafka into a database once, and puts aside what cannot be handled.
 *
 * <p>mvn dependency:copy-dependencies -DoutputDirectory=lib && java -cp 'lib/*' Kafka.java; the environment that it needs:
 * deploy/docs/consuming.md.
 */
class Kafka {
    private static final Logger log = LoggerFactory.getLogger(Kafka.class);
    private static final Map<String, String> env = System.getenv();
    private static final ObjectMapper json = new ObjectMapper();

    /** Replace this by your service's work. Write through {@code database}: it is committed together with the id. */
    static void handle(Connection database, UnaryOperator<String> attribute, byte[] body) throws SQLException, IOException {
        var notification = json.readTree(body);
        try (var insert = database.prepareStatement("INSERT INTO notifications VALUES (?, ?, ?, ?, ?)")) {
            insert.setString(1, attribute.apply("source"));
            insert.setString(2, attribute.apply("id"));
            insert.setString(3, attribute.apply("sequence"));
            insert.setString(4, attribute.apply("type"));
            insert.setString(5, new String(body, StandardCharsets.UTF_8));
            insert.executeUpdate();
        }
        String kind = notification.required("typeWebhook").asText();
        System.out.println(attribute.apply("idinstance") + " " + attribute.apply("sequence") + " " + kind);
    }

    static void accept(Connection database, ConsumerRecord<byte[], byte[]> record) throws SQLException, IOException {
        UnaryOperator<String> attribute =
                name -> {
                    var header = Objects.requireNonNull(record.headers().lastHeader("ce_" + name), "no header ce_" + name);
                    return new String(header.value(), StandardCharsets.UTF_8);
                };
        try (var insert = database.prepareStatement("INSERT OR IGNORE INTO seen VALUES (?, ?)")) {
            insert.setString(1, attribute.apply("source"));
            insert.setString(2, attribute.apply("id"));
            if (insert.executeUpdate() == 1) {
                handle(database, attribute, record.value());
            }
            database.commit();
        } catch (Throwable error) {
            database.rollback();
            throw error;
        }
    }

    static Map<String, Object> connection() {
        var settings = new HashMap<String, Object>(Map.of("bootstrap.servers", env.get("KAFKA_BOOTSTRAP_SERVERS")));
        if (env.containsKey("KAFKA_CA_FILE")) {
            settings.put("security.protocol", "SSL");
            settings.put("ssl.truststore.type", "PEM");
            settings.put("ssl.truststore.location", env.get("KAFKA_CA_FILE"));
        }
        if (env.containsKey("KAFKA_USERNAME")) {
            String mechanism = env.getOrDefault("KAFKA_SASL_MECHANISM", "PLAIN");
            String module = mechanism.equals("PLAIN") ? "plain.PlainLoginModule" : "scram.ScramLoginModule";
            String login = "org.apache.kafka.common.security.%s required username=\"%s\" password=\"%s\";";
            settings.put("security.protocol", "SASL_SSL");
            settings.put("sasl.mechanism", mechanism);
            settings.put("sasl.jaas.config", login.formatted(module, env.get("KAFKA_USERNAME"), env.get("KAFKA_PASSWORD")));
        }
        return settings;
    }

    public static void main(String[] arguments) throws Exception {
        var stopping = new AtomicBoolean();
        for (String name : List.of("TERM", "INT")) {
            Signal.handle(new Signal(name), signal -> stopping.set(true));
        }
        var settings = connection();
        settings.put("group.id", env.get("KAFKA_GROUP"));
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", false);
        // One that was killed is missed for so long.
        settings.put("session.timeout.ms", 10_000);
        // When asked to end it finishes these.
        settings.put("max.poll.records", 100);
        var bytes = new ByteArrayDeserializer();
        String path = env.getOrDefault("DATABASE", "notifications.sqlite");
        try (var database = DriverManager.getConnection("jdbc:sqlite:" + path);
                var producer = new KafkaProducer<>(connection(), new ByteArraySerializer(), new ByteArraySerializer());
                var consumer = new KafkaConsumer<>(settings, bytes, bytes);
                var schema = database.createStatement()) {
            schema.execute("CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id))");
            schema.execute(
                    "CREATE TABLE IF NOT EXISTS notifications (source TEXT, id TEXT, sequence TEXT, type TEXT, body TEXT)");
            database.setAutoCommit(false);
            consumer.subscribe(List.of(env.get("KAFKA_TOPIC")));
            while (!stopping.get()) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    var partition = new TopicPartition(record.topic(), record.partition());
                    try {
                        accept(database, record);
                    } catch (JsonProcessingException | RuntimeException error) {
                        // All others, those of the database among them, are not the notification's fault: it comes again.
                        log.error("put aside: {}, offset {}", partition, record.offset(), error);
                        var reason = error.toString().getBytes(StandardCharsets.UTF_8);
                        var headers = record.headers().add("reason", reason);
                        var topic = env.get("KAFKA_DEAD_LETTER_TOPIC");
                        producer.send(new ProducerRecord<>(topic, null, record.key(), record.value(), headers)).get();
                    }
                    try {
                        consumer.commitSync(Map.of(partition, new OffsetAndMetadata(record.offset() + 1)));
                    } catch (KafkaException error) {
                        // The broker is away, or the partition has another consumer by now, which finds it in `seen`.
                        log.warn("not committed", error);
                    }
                }
            }
        }
    }
}
