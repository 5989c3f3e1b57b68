package sandlot.kernel;

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;

/** The life of a context without execd, for the image build: the classes that it loads go into the archive. */
final class Training {
    private static final List<String> CODE =
            List.of("1 + 1", "System.out.println(\"text\"); System.err.println(1.5)", "throw new IOException(\"x\")", "new Scanner(System.in).hasNext()");

    private Training() {}

    static Channel channel() {
        StringBuilder lines = new StringBuilder();
        lines.append(Json.object("op", "start", "cwd", "/", "env", Map.of("PATH", "/usr/bin:/bin"))).append('\n');
        int id = 0;
        for (String code : CODE) {
            lines.append(Json.object("op", "run", "id", ++id, "code", code, "input", false)).append('\n');
        }
        lines.append(Json.object("op", "complete", "id", 1, "code", "Math.ab", "cursor", 7)).append('\n');
        lines.append(Json.object("op", "inspect", "id", 2, "code", "Math.abs", "cursor", 8, "detail", false)).append('\n');
        InputStream in = new ByteArrayInputStream(lines.toString().getBytes(StandardCharsets.UTF_8));
        return new Channel(in, OutputStream.nullOutputStream());
    }
}
