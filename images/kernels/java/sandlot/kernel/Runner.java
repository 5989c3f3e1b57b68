package sandlot.kernel;

import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** One context: take runs from the channel, execute them, say how each ended. See docs/runner-protocol.md. */
final class Runner {
    private static final int PROTOCOL = 1;
    private static final long IDLE_MS = 250; // contexts that are opened one after the other have better use for the CPU
    private static final Map<String, Object> END = Map.of("op", "end");

    private final Channel channel;
    private final Console console;
    private final Session session;
    private final Runnable atEnd;
    private final BlockingQueue<Map<String, Object>> inbox = new LinkedBlockingQueue<>();
    private int count;

    /** `atEnd` is called in a thread of ours when execd has closed the channel. */
    Runner(Channel channel, Console console, Session session, Runnable atEnd) {
        this.channel = channel;
        this.console = console;
        this.session = session;
        this.atEnd = atEnd;
    }

    /** Serve until execd closes the channel. `started`: execd has told us for whom already, before this program. */
    void serve(boolean started) throws InterruptedException {
        Thread listener = new Thread(Main.THREADS, this::listen, "sandlot-channel");
        listener.setDaemon(true);
        listener.start();
        Map<String, Object> message = null;
        if (started) {
            Sandbox.setClassPath(session);
            channel.send("type", "started");
        } else {
            channel.send("type", "ready", "protocol", PROTOCOL);
            message = inbox.poll(IDLE_MS, TimeUnit.MILLISECONDS);
            if (message == null) {
                WarmUp.run(session, () -> !inbox.isEmpty()); // nobody needs us yet: be quick when somebody does
            }
        }
        message = message == null ? inbox.take() : message;
        for (; message != END; message = inbox.take()) {
            switch ((String) message.get("op")) {
                case "start" -> start(message);
                case "run" -> run(message);
                case "complete", "inspect" -> answer(message);
                default -> {} // What we do not know was not meant for us: execd waits for no answer to it.
            }
        }
    }

    private void listen() {
        Map<String, Object> message;
        while ((message = channel.receive()) != null) {
            switch ((String) message.get("op")) {
                case "interrupt" -> session.execution.strike((Long) message.get("id"));
                case "input" -> console.answer((String) message.get("text"));
                default -> inbox.add(message);
            }
        }
        inbox.add(END);
        atEnd.run();
    }

    @SuppressWarnings("unchecked")
    private void start(Map<String, Object> message) {
        String failed = Sandbox.enter((String) message.get("cwd"), (Map<String, String>) message.get("env"));
        if (failed != null) {
            channel.send("type", "failed", "message", failed);
            return;
        }
        Sandbox.startOverIfMemoryChanged();
        Sandbox.setClassPath(session);
        channel.send("type", "started");
    }

    private void run(Map<String, Object> message) {
        long id = (Long) message.get("id");
        console.begin(message.get("input") == Boolean.TRUE);
        session.execution.begin(id);
        Session.Outcome outcome;
        try {
            outcome = session.run((String) message.get("code"), ++count);
        } catch (RuntimeException | Error ours) {
            // JShell's own mistake, or no memory left for the compiler: the context stays.
            outcome = new Session.Outcome("error", null, Failure.internal(ours), Set.of());
        } finally {
            session.execution.end();
            console.end();
        }
        for (String note : outcome.notes()) {
            console.tell(note);
        }
        console.flush();
        if (outcome.value() != null && !outcome.value().isEmpty()) {
            show(outcome.value());
        }
        if (outcome.failure() != null) {
            show(outcome.failure());
        }
        channel.send("type", "done", "id", id, "status", outcome.status(), "count", count);
    }

    private void show(String value) {
        if (!channel.send("type", "result", "data", Map.of("text/plain", value), "count", count)) {
            String told = "(not shown: " + value.length() + " characters)";
            channel.send("type", "result", "data", Map.of("text/plain", told), "count", count);
        }
    }

    private void show(Failure failure) {
        if (!channel.send(
                "type", "error", "name", failure.name(), "value", failure.value(), "traceback", failure.traceback())) {
            String told = "(not shown: " + failure.value().length() + " characters)";
            channel.send("type", "error", "name", failure.name(), "value", told);
        }
    }

    private void answer(Map<String, Object> message) {
        Object id = message.get("id");
        String code = (String) message.get("code");
        // execd counts characters, Java's strings count UTF-16 units.
        int cursor = code.offsetByCodePoints(0, ((Long) message.get("cursor")).intValue());
        try {
            session.names.release();
            if (message.get("op").equals("complete")) {
                Assist.Completion found = Assist.complete(session, code, cursor);
                int start = code.codePointCount(0, found.start());
                int end = code.codePointCount(0, cursor);
                channel.send(
                        "type", "completion", "id", id, "matches", found.matches(), "start", start, "end", end);
            } else {
                boolean detail = message.get("detail") == Boolean.TRUE;
                channel.send(
                        "type", "inspection", "id", id, "data", Assist.inspect(session, code, cursor, detail));
            }
        } catch (RuntimeException | Error ours) {
            channel.send("type", "refused", "id", id, "message", ours.toString());
        }
    }
}
