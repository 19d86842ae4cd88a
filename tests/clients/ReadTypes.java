import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.exc.InvalidTypeIdException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;
import notification.*;

/**
 * Parses lines with the classes generated from the schema: of each the names of its classes, and what is printed of it again.
 * A body of an unknown kind has no class and stays as it is.
 */
class ReadTypes {
    public static void main(String[] arguments) throws Exception {
        var mapper = new ObjectMapper()
            .configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false)
            .setDefaultPropertyInclusion(JsonInclude.Include.NON_NULL);
        for (var body : Files.readAllLines(Path.of(arguments[0]))) {
            Stream<Object> parts;
            JsonNode printed;
            try {
                var notification = mapper.readValue(body, Notification.class);
                parts = Stream.concat(Stream.of(notification), Stream.ofNullable(messageOf(notification)));
                printed = mapper.valueToTree(notification);
            } catch (InvalidTypeIdException unknown) {
                parts = Stream.of();
                printed = mapper.readTree(body);
            }
            var classes = parts.map(part -> part.getClass().getSimpleName()).toList();
            System.out.println(mapper.writeValueAsString(Map.of("classes", classes, "body", printed)));
        }
    }

    private static MessageData messageOf(Notification notification) {
        if (notification instanceof IncomingMessageReceived received) return received.getMessageData();
        if (notification instanceof OutgoingMessageReceived received) return received.getMessageData();
        if (notification instanceof OutgoingAPIMessageReceived received) return received.getMessageData();
        return null;
    }
}
