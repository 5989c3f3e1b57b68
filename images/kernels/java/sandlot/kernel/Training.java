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
            List.of(
                    "1 + 1",
                    "System.out.print(\"\"); System.err.print(1.5 + \"\");",
                    "Map<String, List<Integer>> map = new TreeMap<>();\nmap.put(\"k\", List.of(1));\nmap",
                    "record Point(int x, int y) {}\nString.format(\"%s %.1f\", new Point(1, 2), 1.5)",
                    "new int[] {1, 2}",
                    "throw new IOException(\"x\")",
                    "void waits() { gone(); }\nwaits()",
                    "class Open {",
                    "int wrong = \"text\";",
                    "new Scanner(System.in).hasNext()");

    private Training() {}

    static Channel channel() {
        StringBuilder lines = new StringBuilder();
        lines.append(Json.object("op", "start", "cwd", "/", "env", Map.of("PATH", "/usr/bin:/bin"))).append('\n');
        int id = 0;
        for (String code : CODE) {
            lines.append(Json.object("op", "run", "id", ++id, "code", code, "input", false)).append('\n');
        }
        lines.append(Json.object("op", "complete", "id", 1, "code", "Math.ab", "cursor", 7)).append('\n');
        lines.append(Json.object("op", "inspect", "id", 2, "code", "Math.abs", "cursor", 8, "detail", false));
        lines.append('\n');
        InputStream in = new ByteArrayInputStream(lines.toString().getBytes(StandardCharsets.UTF_8));
        return new Channel(in, OutputStream.nullOutputStream());
    }
}
