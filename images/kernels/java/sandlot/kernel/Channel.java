package sandlot.kernel;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** The channel to execd: one JSON object a line, both ways. One thread receives, any may send. */
final class Channel {
    static final int MAX_LINE_BYTES = 16 * 1024 * 1024 - 64 * 1024; // execd takes no longer ones

    private final InputStream in;
    private final OutputStream out;
    private final byte[] chunk = new byte[64 * 1024];
    private int begin;
    private int end;

    Channel(InputStream in, OutputStream out) {
        this.in = in;
        this.out = out;
    }

    /** Return the next message; null when execd has closed the channel. */
    Map<String, Object> receive() {
        ByteArrayOutputStream pieces = null; // of a line that is longer than the chunk
        try {
            while (true) {
                for (int i = begin; i < end; i++) {
                    if (chunk[i] == '\n') {
                        String line;
                        if (pieces == null) {
                            line = new String(chunk, begin, i - begin, StandardCharsets.UTF_8);
                        } else {
                            pieces.write(chunk, begin, i - begin);
                            line = pieces.toString(StandardCharsets.UTF_8);
                        }
                        begin = i + 1;
                        return Json.parse(line);
                    }
                }
                if (begin < end) {
                    pieces = pieces == null ? new ByteArrayOutputStream() : pieces;
                    pieces.write(chunk, begin, end - begin);
                }
                begin = 0;
                end = Math.max(in.read(chunk), 0);
                if (end == 0) {
                    return null;
                }
            }
        } catch (IOException broken) {
            return null; // execd is gone
        }
    }

    /** Send a message. False: it is longer than execd takes, and nothing was sent. */
    boolean send(Object... fields) {
        byte[] line = (Json.object(fields) + "\n").getBytes(StandardCharsets.UTF_8);
        if (line.length > MAX_LINE_BYTES) {
            return false;
        }
        synchronized (out) {
            try {
                out.write(line);
                out.flush();
            } catch (IOException gone) {
                // So is execd then: receive() says so.
            }
        }
        return true;
    }
}
