import com.rabbitmq.client.ConnectionFactory;
import java.io.FileWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;

/**
 * Reads notifications from RabbitMQ and drops those it has seen: the message id is the same for the same notification.
 *
 * <p>With com.rabbitmq:amqp-client and its dependencies in lib: java -cp 'lib/*' RabbitMQ.java URI QUEUE
 */
class RabbitMQ {
    public static void main(String[] arguments) throws Exception {
        // In a service: a table, written in the transaction that does the work.
        var file = new FileWriter("seen.txt", true);
        var seen = new HashSet<>(Files.readAllLines(Path.of("seen.txt")));

        var factory = new ConnectionFactory();
        factory.setUri(arguments[0]);
        var channel = factory.newConnection().createChannel();
        // An exception below closes the channel, and without this the program would stay and do nothing.
        channel.addShutdownListener(
                cause -> {
                    cause.printStackTrace();
                    System.exit(1);
                });
        channel.basicQos(100);
        channel.basicConsume(
                arguments[1],
                (consumer, message) -> {
                    var properties = message.getProperties();
                    var headers = properties.getHeaders();
                    if (seen.add(properties.getMessageId())) {
                        String line = headers.get("cloudEvents_idinstance") + " " + headers.get("cloudEvents_sequence");
                        System.out.println(line + " " + properties.getType());
                        file.write(properties.getMessageId() + "\n");
                        file.flush();
                    }
                    channel.basicAck(message.getEnvelope().getDeliveryTag(), false);
                },
                consumer -> {
                    throw new IOException(arguments[1] + " was deleted");
                });
    }
}
