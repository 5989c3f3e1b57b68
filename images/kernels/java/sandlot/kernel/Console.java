package sandlot.kernel;

import java.io.InputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Optional;

/** System.in: whoever runs the code answers, a line at a time, if they said that they can; else it is at its end. */
final class Console extends InputStream {
    private final Channel channel;
    private final PrintStream out = System.out;
    private final PrintStream err = System.err;
    private final Object lock = new Object(); // for the fields up to the empty line
    private final Deque<Optional<String>> answers = new ArrayDeque<>();
    private boolean answered; // somebody answers
    private int turn; // counts the beginnings and ends of runs
    private boolean stale; // what is left of the line was meant for an earlier run

    private byte[] line = {};
    private int at;

    Console(Channel channel) {
        this.channel = channel;
    }

    /** A run begins. What was answered too late, or not read, is not meant for it. */
    void begin(boolean mayAsk) {
        if (System.out == null) {
            System.setOut(out); // the compiler takes it, too
        }
        if (System.err == null) {
            System.setErr(err);
        }
        synchronized (lock) {
            answers.clear();
            answered = mayAsk;
            stale = true;
            turn++;
        }
    }

    /** It has ended; threads that still ask get no answer. */
    void end() {
        synchronized (lock) {
            answered = false;
            turn++;
            lock.notifyAll();
        }
    }

    /** execd brought an answer; null is the end of input. */
    void answer(String text) {
        synchronized (lock) {
            answers.add(Optional.ofNullable(text));
            lock.notifyAll();
        }
    }

    /** Print something of ours to stderr. */
    void tell(String text) {
        err.println(text);
    }

    /** Bring what was printed to the descriptors, whatever user code did to its streams. */
    void flush() {
        out.flush();
        err.flush();
        flush(System.out, out);
        flush(System.err, err);
    }

    private static void flush(PrintStream present, PrintStream first) {
        try {
            if (present != first && present != null) {
                present.flush();
            }
        } catch (RuntimeException | Error theirs) {
            // A stream of the user's own making.
        }
    }

    @Override
    public int read() {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    @Override
    public synchronized int read(byte[] bytes, int offset, int length) {
        if (length == 0) {
            return 0;
        }
        synchronized (lock) {
            at = stale ? line.length : at;
            stale = false;
        }
        if (at == line.length && !ask()) {
            return -1;
        }
        int count = Math.min(length, line.length - at);
        System.arraycopy(line, at, bytes, offset, count);
        at += count;
        return count;
    }

    @Override
    public synchronized int available() {
        return line.length - at;
    }

    private boolean ask() {
        flush();
        synchronized (lock) {
            if (!answered) {
                return false;
            }
            int mine = turn;
            channel.send("type", "input_request", "prompt", "", "password", false);
            try {
                while (answers.isEmpty() && turn == mine) {
                    lock.wait();
                }
            } catch (InterruptedException interrupted) {
                throw Console.<RuntimeException>unchecked(interrupted); // read() may not declare it
            }
            Optional<String> answer = turn == mine ? answers.poll() : Optional.empty();
            line = answer.map(text -> (text + "\n").getBytes(StandardCharsets.UTF_8)).orElse(new byte[0]);
            at = 0;
            return answer.isPresent();
        }
    }

    @SuppressWarnings("unchecked")
    private static <E extends Throwable> E unchecked(Throwable thrown) throws E {
        throw (E) thrown;
    }
}
