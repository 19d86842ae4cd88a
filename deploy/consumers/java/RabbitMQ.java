import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import sun.misc.Signal;

/**
 * Takes each notification from RabbitMQ into a database once, and puts aside what cannot be handled.
 *
 * <p>mvn dependency:copy-dependencies -DoutputDirectory=lib && java -cp 'lib/*' RabbitMQ.java; the environment that it needs:
 * deploy/docs/consuming.md.
 */
class RabbitMQ {
    private static final Logger log = LoggerFactory.getLogger(RabbitMQ.class);
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

    static void accept(Connection database, Delivery message) throws SQLException, IOException {
        var headers = Objects.requireNonNullElse(message.getProperties().getHeaders(), Map.<String, Object>of());
        UnaryOperator<String> attribute =
                name -> Objects.requireNonNull(headers.get("cloudEvents_" + name), "no header cloudEvents_" + name).toString();
        try (var insert = database.prepareStatement("INSERT OR IGNORE INTO seen VALUES (?, ?)")) {
            insert.setString(1, attribute.apply("source"));
            insert.setString(2, attribute.apply("id"));
            if (insert.executeUpdate() == 1) {
                handle(database, attribute, message.getBody());
            }
            database.commit();
        } catch (Throwable error) {
            database.rollback();
            throw error;
        }
    }

    static ConnectionFactory factory() throws Exception {
        var factory = new ConnectionFactory();
        factory.setUri(env.get("AMQP_URI"));
        if (factory.isSSL()) {
            // Left alone, this client trusts everybody.
            factory.useSslProtocol(env.containsKey("AMQP_CA_FILE") ? trusting(env.get("AMQP_CA_FILE")) : SSLContext.getDefault());
            factory.enableHostnameVerification();
        }
        return factory;
    }

    static SSLContext trusting(String file) throws GeneralSecurityException, IOException {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (var authority = new FileInputStream(file)) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(authority));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    public static void main(String[] arguments) throws Exception {
        var ended = new CompletableFuture<Void>();
        for (String name : List.of("TERM", "INT")) {
            Signal.handle(new Signal(name), signal -> ended.complete(null));
        }
        String path = env.getOrDefault("DATABASE", "notifications.sqlite");
        try (var database = DriverManager.getConnection("jdbc:sqlite:" + path);
                var schema = database.createStatement();
                var connection = factory().newConnection()) {
            schema.execute("CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id))");
            schema.execute(
                    "CREATE TABLE IF NOT EXISTS notifications (source TEXT, id TEXT, sequence TEXT, type TEXT, body TEXT)");
            database.setAutoCommit(false);
            var channel = connection.createChannel();
            // The client makes a lost connection again, but not a channel that the broker closed over a mistake of ours.
            channel.addShutdownListener(cause -> { if (!cause.isHardError()) ended.completeExceptionally(cause); });
            channel.basicQos(100);
            var messages = new LinkedBlockingQueue<Delivery>();
            String queue = env.get("AMQP_QUEUE");
            channel.basicConsume(
                    queue,
                    (consumer, message) -> messages.add(message),
                    consumer -> ended.completeExceptionally(new IOException(queue + " was deleted")));
            while (!ended.isDone()) {
                var message = messages.poll(1, TimeUnit.SECONDS);
                if (message == null) continue;
                long tag = message.getEnvelope().getDeliveryTag();
                boolean accepted = true;
                try {
                    accept(database, message);
                } catch (JsonProcessingException | RuntimeException error) {
                    // All others, those of the database among them, are not the notification's fault: it comes again.
                    log.error("put aside: {}", message.getProperties().getMessageId(), error);
                    accepted = false;
                }
                try {
                    if (accepted) channel.basicAck(tag, false);
                    else channel.basicReject(tag, false); // To the queue's dead-letter exchange.
                } catch (IOException | AlreadyClosedException error) {
                    log.warn("the connection is lost: what was not acknowledged comes again");
                }
            }
        }
        ended.join();
    }
}
