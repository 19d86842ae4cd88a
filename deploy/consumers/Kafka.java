import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Reads notifications from Kafka: only those of committed transactions.
 *
 * <p>With org.apache.kafka:kafka-clients and its dependencies in lib: java -cp 'lib/*' Kafka.java SERVERS TOPIC GROUP
 */
class Kafka {
    public static void main(String[] arguments) {
        Map<String, Object> settings =
                Map.of(
                        "bootstrap.servers", arguments[0],
                        "group.id", arguments[2],
                        "isolation.level", "read_committed",
                        "auto.offset.reset", "earliest",
                        "enable.auto.commit", false);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(arguments[1]));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    var attributes = record.headers();
                    String line = "";
                    for (String name : List.of("ce_idinstance", "ce_sequence", "ce_type")) {
                        line += new String(attributes.lastHeader(name).value(), StandardCharsets.UTF_8) + " ";
                    }
                    System.out.println(line.strip());
                }
                // After the work is done. Killed in between, this program reads the records again: store ce_id with your results.
                consumer.commitSync();
            }
        }
    }
}
