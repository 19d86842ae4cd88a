import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;
import notification.*;

/** Parses lines with the classes generated from the schema: of each the names of its classes, and what is printed of it again. */
class ReadTypes {
    public static void main(String[] arguments) throws Exception {
        var mapper = new ObjectMapper()
            .configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false)
            .setDefaultPropertyInclusion(JsonInclude.Include.NON_NULL);
        for (var body : Files.readAllLines(Path.of(arguments[0]))) {
            var notification = mapper.readValue(body, Notification.class);
            var classes = Stream.concat(Stream.of(notification), Stream.ofNullable(messageOf(notification)))
                .map(part -> part.getClass().getSimpleName());
            JsonNode printed = mapper.valueToTree(notification);
            System.out.println(mapper.writeValueAsString(Map.of("classes", classes.toList(), "body", printed)));
        }
    }

    private static MessageData messageOf(Notification notification) {
        if (notification instanceof IncomingMessageReceived received) return received.getMessageData();
        if (notification instanceof OutgoingMessageReceived received) return received.getMessageData();
        if (notification instanceof OutgoingAPIMessageReceived received) return received.getMessageData();
        return null;
    }
}
