// What people do most, with the official Java/Kotlin SDK on the class path, against a live server.
//   java -cp 'DIRECTORY/*' VersionTour.java direct|proxy IMAGE
// Prints JSON: for each thing "ok", "–" where this version cannot do it, or what went wrong.
import com.alibaba.opensandbox.sandbox.Sandbox;
import com.alibaba.opensandbox.sandbox.SandboxManager;
import com.alibaba.opensandbox.sandbox.config.ConnectionConfig;
import com.alibaba.opensandbox.sandbox.domain.models.execd.executions.OutputMessage;
import com.alibaba.opensandbox.sandbox.domain.models.execd.filesystem.ContentReplaceEntry;
import com.alibaba.opensandbox.sandbox.domain.models.execd.filesystem.SearchEntry;
import com.alibaba.opensandbox.sandbox.domain.models.sandboxes.SandboxFilter;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

public class VersionTour {
    interface Work {
        void go() throws Exception;
    }

    static final List<String> results = new ArrayList<>();
    static Sandbox sandbox;

    public static void main(String[] arguments) {
        if (arguments[0].equals("proxy")) {
            System.out.println("{\"create\": \"–\"}");  // this version has no such setting
            return;
        }
        ConnectionConfig config = ConnectionConfig.builder().build();
        note("create", () -> sandbox = Sandbox.builder().connectionConfig(config).image(arguments[1]).build());
        if (sandbox != null) {
            note("commands", VersionTour::commands);
            note("files", VersionTour::files);
            note("records", () -> records(config));
            note("metrics", () -> {
                check(sandbox.getMetrics().getCpuCount() > 0, sandbox.getMetrics());
                check(sandbox.isHealthy(), "unhealthy");
            });
            note("ports", () -> check(!sandbox.getEndpoint(8080).getEndpoint().isEmpty(), "no address"));
            note("kill", () -> sandbox.kill());
            sandbox.close();
        }
        System.out.println("{" + String.join(", ", results) + "}");
        System.exit(0);  // the SDK's threads would go on for a minute
    }

    static void commands() {
        var run = sandbox.commands().run("echo out; echo err >&2");
        check(said(run.getLogs().getStdout()).equals("out"), run);
        check(said(run.getLogs().getStderr()).equals("err"), run);
        check(sandbox.commands().run("exit 7").getError().getValue().equals("7"), "another exit code");
        String lines = IntStream.rangeClosed(1, 2000).mapToObj(String::valueOf).collect(Collectors.joining("\n"));
        check(said(sandbox.commands().run("seq 1 2000").getLogs().getStdout()).equals(lines), "other lines");
    }

    static void files() {
        String text = "日本語 and\nlines\n";
        sandbox.files().writeFile("/tmp/tour/a.txt", text);
        check(sandbox.files().readFile("/tmp/tour/a.txt").equals(text), "another text");
        var edit = ContentReplaceEntry.builder().path("/tmp/tour/a.txt").oldContent("and").newContent("or").build();
        sandbox.files().replaceContents(List.of(edit));
        check(sandbox.files().readFile("/tmp/tour/a.txt").equals(text.replace("and", "or")), "not replaced");
        var found = sandbox.files().search(SearchEntry.builder().path("/tmp/tour").pattern("*.txt").build());
        check(found.size() == 1 && found.get(0).getPath().equals("/tmp/tour/a.txt"), found);
        sandbox.files().deleteFiles(List.of("/tmp/tour/a.txt"));
    }

    static void records(ConnectionConfig config) {
        check(sandbox.getInfo().getStatus().getState().equals("Running"), sandbox.getInfo());
        sandbox.renew(Duration.ofMinutes(20));
        var manager = SandboxManager.builder().connectionConfig(config).build();
        var listed = manager.listSandboxInfos(SandboxFilter.builder().build()).getSandboxInfos();
        check(listed.stream().anyMatch(one -> one.getId().equals(sandbox.getId())), listed);
        manager.close();
    }

    static String said(List<OutputMessage> messages) {
        return messages.stream().map(one -> one.getText().replaceFirst("\n$", "")).collect(Collectors.joining("\n"));
    }

    static void check(boolean isRight, Object value) {
        if (!isRight) throw new AssertionError("an unexpected result: " + value);
    }

    static void note(String name, Work work) {
        String result = "ok";
        try {
            work.go();
        } catch (Throwable error) {
            error.printStackTrace();
            result = "failed: " + String.valueOf(error).replaceAll("[\"\\\\\\p{Cntrl}]", " ");
        }
        results.add("\"" + name + "\": \"" + result + "\"");
    }
}
