package sandlot.kernel;

import java.io.File;
import java.io.FileDescriptor;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TimeZone;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The process that we are in, and how it becomes what a program started in the sandbox would be. */
final class Sandbox {
    private static final String CHANNEL = "SANDLOT_CHANNEL_FD";
    private static final String STARTED = "__SANDLOT_STARTED"; // for the program that replaces us: `start` was said
    private static final Path MACHINE = Path.of("/proc/meminfo"); // its first line is the total in KiB
    private static final List<Path> MEMORY_LIMITS =
            List.of(
                    Path.of("/sys/fs/cgroup/memory.max"), // cgroup v2, "max" without one; then v1
                    Path.of("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
                    MACHINE);
    private static final Pattern NUMBER = Pattern.compile("\\d+");

    private static int channel = -1;

    private Sandbox() {}

    /** Take over the descriptor of the channel. */
    static FileDescriptor channel() {
        channel = Integer.parseInt(Native.takeVariable(CHANNEL));
        return Native.descriptor(channel);
    }

    /** Whether this program has replaced one that had been told for whom it is. */
    static boolean isStarted() {
        return Native.takeVariable(STARTED) != null;
    }

    /** Take variables and working directory over. Returns why that failed, or null. */
    static String enter(String directory, Map<String, String> variables) {
        int error = Native.changeDirectory(bytes(directory));
        if (error != 0) {
            return directory + ": " + Native.describe(error);
        }
        byte[][] words = new byte[2 * variables.size()][];
        int at = 0;
        for (Map.Entry<String, String> variable : variables.entrySet()) {
            words[at++] = bytes(variable.getKey());
            words[at++] = bytes(variable.getValue());
        }
        Native.setEnvironment(words); // System.getenv() first looks when it is first asked: not before now
        byte[] real = Native.currentDirectory();
        believe(real == null ? directory : new String(real, StandardCharsets.UTF_8));
        System.clearProperty("user.timezone"); // found anew, from $TZ
        TimeZone.setDefault(null);
        return null;
    }

    /** Java looks only once, when it starts, where it is: here is what it remembers. */
    private static void believe(String directory) {
        System.setProperty("user.dir", directory);
        Object files = Native.getStatic(File.class, "FS", "Ljava/io/FileSystem;");
        if (files == null) { // its name before Java 21
            files = Native.getStatic(File.class, "fs", "Ljava/io/FileSystem;");
        }
        if (files != null) {
            Native.setField(files.getClass(), files, "userDir", "Ljava/lang/String;", directory);
        }
        FileSystem paths = FileSystems.getDefault();
        Native.setField(paths.getClass(), paths, "defaultDirectory", "[B", bytes(directory));
    }

    /** Classes come from $CLASSPATH, or else from the working directory, as for the jshell tool. */
    static void setClassPath(Session session) {
        String named = System.getenv("CLASSPATH");
        System.setProperty("java.class.path", named == null ? "" : named);
        if (named == null || named.isEmpty()) {
            session.addWhenMissed(System.getProperty("user.dir"));
            return;
        }
        for (String entry : named.split(File.pathSeparator)) {
            if (entry.endsWith("/*") || entry.equals("*")) {
                File[] files = new File(entry.substring(0, entry.length() - 1) + ".").listFiles();
                Arrays.stream(files == null ? new File[0] : files)
                        .map(File::getPath)
                        .filter(name -> name.endsWith(".jar") || name.endsWith(".JAR"))
                        .sorted()
                        .forEach(session.shell::addToClasspath);
            } else {
                session.shell.addToClasspath(entry.isEmpty() ? "." : entry);
            }
        }
    }

    /**
     * Replace this program by itself when the sandbox has another memory limit than its container had while it waited:
     * a JVM cannot change the limit of its heap later.
     */
    static void startOverIfMemoryChanged() {
        double share = (double) Runtime.getRuntime().maxMemory() / memoryLimit();
        if (channel < 0 || share > 0.42 && share < 0.52) { // half, as in `options`; the JVM keeps some of it back
            return;
        }
        try {
            List<byte[]> words = new ArrayList<>();
            for (String word : Files.readString(Path.of("/proc/self/cmdline")).split("\0")) {
                words.add(bytes(word));
            }
            Native.setVariable(CHANNEL, String.valueOf(channel));
            Native.setVariable(STARTED, "1");
            Native.execute(words.toArray(new byte[0][]), channel);
        } catch (IOException without) {
            // Without /proc: then the heap keeps its size.
        }
        Native.takeVariable(CHANNEL);
        Native.takeVariable(STARTED);
    }

    /** In bytes: of the sandbox, or else of the machine. */
    private static long memoryLimit() {
        long limit = Long.MAX_VALUE;
        for (Path file : MEMORY_LIMITS) {
            try {
                Matcher number = NUMBER.matcher(Files.readString(file));
                if (number.find()) {
                    limit = Math.min(limit, Long.parseLong(number.group()) * (file.equals(MACHINE) ? 1024 : 1));
                }
            } catch (IOException other) {
                // The other version of control groups, or none.
            }
        }
        return limit;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
