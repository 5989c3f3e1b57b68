package sandlot.kernel;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import jdk.jshell.DeclarationSnippet;
import jdk.jshell.Diag;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.Completeness;
import jdk.jshell.SourceCodeAnalysis.CompletionInfo;
import jdk.jshell.spi.ExecutionControl;
import jdk.jshell.spi.ExecutionControlProvider;
import jdk.jshell.spi.ExecutionEnv;

/** A JShell, and the cutting of a run's code into the snippets that it takes one by one. */
final class Session {
    /** What the jshell tool imports by default. */
    private static final List<String> IMPORTS =
            List.of(
                    "java.io",
                    "java.math",
                    "java.net",
                    "java.nio.file",
                    "java.util",
                    "java.util.concurrent",
                    "java.util.function",
                    "java.util.prefs",
                    "java.util.regex",
                    "java.util.stream");

    /** For the property java.class.path while a JShell is made: it takes that over, and "" would mean ".". */
    static final String NO_CLASS_PATH = "/nonexistent";

    /** How a run ended: its value if the last snippet was an expression, its error if one failed. */
    record Outcome(String status, String value, Failure failure, Set<String> notes) {}

    /** Where a snippet stands: in which run, and at which line (from 1) its text begins. */
    record Origin(long run, int line) {}

    /** A piece of a run's code: what JShell is given, and the index at which that begins. */
    record Piece(String source, int begin, Completeness completeness) {}

    final JShell shell;
    final Execution execution = new Execution();
    final NameIndex names = new NameIndex();
    private final SourceCodeAnalysis analysis;
    private final Map<String, Origin> origins = new HashMap<>(); // by the id of the snippet
    private String whenMissed; // see there; null: nothing
    private int unnamed; // values that have got a name: $1, $2 …

    Session() {
        shell =
                JShell.builder()
                        .executionEngine(new Here(execution), Map.of())
                        .tempVariableNameGenerator(() -> "$" + ++unnamed)
                        .compilerOptions("-g") // names of variables, for messages of NullPointerExceptions
                        .build();
        names.hold(); // before there is an analysis, which would begin with them
        analysis = shell.sourceCodeAnalysis();
        for (String name : IMPORTS) {
            shell.eval("import " + name + ".*;");
        }
    }

    /** Forget all that was declared; imports stay. */
    void clear() {
        List<Snippet> known = shell.snippets().filter(one -> one.kind() != Snippet.Kind.IMPORT).toList();
        for (Snippet snippet : known) {
            if (shell.status(snippet).isActive()) {
                shell.drop(snippet);
            }
        }
        origins.clear();
        unnamed = 0;
    }

    Outcome run(String code, long run) {
        List<Piece> pieces = cut(code);
        if (!pieces.isEmpty()) {
            Piece last = pieces.get(pieces.size() - 1);
            if (last.completeness == Completeness.UNKNOWN || last.completeness == Completeness.DEFINITELY_INCOMPLETE) {
                pieces = List.of(last); // no Java: nothing of the code is executed. JShell says what is wrong with it.
            }
        }
        Set<DeclarationSnippet> unresolved = new LinkedHashSet<>();
        String value = null;
        for (Piece piece : pieces) {
            value = null;
            if (execution.isStruck()) {
                return new Outcome("interrupted", null, Failure.interrupted(), notes(unresolved));
            }
            for (SnippetEvent event : evaluate(piece.source)) {
                Snippet snippet = event.snippet();
                if (event.causeSnippet() == null) {
                    origins.put(snippet.id(), new Origin(run, lineOf(code, piece.begin)));
                }
                if (event.status() == Snippet.Status.REJECTED && event.causeSnippet() == null) {
                    return new Outcome("error", null, Failure.rejected(this, snippet, code, piece), notes(unresolved));
                }
                if (event.exception() != null) {
                    return failed(event.exception(), notes(unresolved));
                }
                if (snippet instanceof DeclarationSnippet declaration) {
                    unresolved.add(declaration);
                }
                if (event.causeSnippet() == null && isExpression(snippet)) {
                    value = event.value();
                }
            }
        }
        return new Outcome("ok", value, null, notes(unresolved));
    }

    /**
     * Add a directory to the class path as soon as code names something that is nowhere else. Not at once: the compiler
     * then has to begin anew, which takes 0.1 s, and most contexts need nothing but the JDK.
     */
    void addWhenMissed(String directory) {
        whenMissed = directory;
    }

    /** Give JShell a snippet. */
    private List<SnippetEvent> evaluate(String source) {
        List<SnippetEvent> events = shell.eval(source);
        if (whenMissed != null && events.stream().anyMatch(this::misses)) {
            shell.addToClasspath(whenMissed);
            whenMissed = null;
            events = shell.eval(source);
        }
        return events;
    }

    private boolean misses(SnippetEvent event) {
        return switch (event.status()) {
            case RECOVERABLE_DEFINED, RECOVERABLE_NOT_DEFINED -> true;
            case REJECTED -> shell.diagnostics(event.snippet())
                    .map(Diag::getCode)
                    .anyMatch(code -> code.contains(".cant.resolve") || code.endsWith(".doesnt.exist"));
            default -> false;
        };
    }

    Origin origin(String id) {
        return origins.get(id);
    }

    /** Cut code into snippets; comments and space that nothing follows are left out. */
    List<Piece> cut(String code) {
        List<Piece> pieces = new ArrayList<>();
        int at = 0;
        while (true) {
            while (at < code.length() && Character.isWhitespace(code.charAt(at))) {
                at++; // before a snippet it would have JShell count its lines wrongly
            }
            String rest = code.substring(at);
            CompletionInfo info = analysis.analyzeCompletion(rest);
            if (info.completeness() == Completeness.EMPTY) {
                break;
            }
            boolean whole = info.completeness().isComplete() && info.source() != null && !info.source().isEmpty();
            pieces.add(new Piece(whole ? info.source() : rest, at, info.completeness()));
            int next = whole ? code.length() - info.remaining().length() : code.length();
            at = next > at ? next : code.length();
        }
        return pieces;
    }

    private Outcome failed(JShellException exception, Set<String> notes) {
        if (execution.isStruck()) {
            return new Outcome("interrupted", null, Failure.interrupted(this, exception), notes);
        }
        return new Outcome("error", null, Failure.thrown(this, exception), notes);
    }

    private static boolean isExpression(Snippet snippet) {
        return snippet.kind() == Snippet.Kind.EXPRESSION
                || snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
    }

    /** What was declared but waits for something else to be declared. */
    private Set<String> notes(Set<DeclarationSnippet> declared) {
        Set<String> notes = new LinkedHashSet<>();
        for (DeclarationSnippet one : declared) {
            switch (shell.status(one)) {
                case RECOVERABLE_DEFINED, RECOVERABLE_NOT_DEFINED -> notes.add(waiting(one));
                default -> {}
            }
        }
        return notes;
    }

    /** Say what a declaration waits for. */
    String waiting(DeclarationSnippet declaration) {
        String missing = shell.unresolvedDependencies(declaration).collect(Collectors.joining(", "));
        List<String> wrong =
                shell.diagnostics(declaration).filter(one -> one.isError()).map(one -> one.getMessage(null)).toList();
        String name = Failure.nameOf(declaration);
        if (missing.isEmpty()) {
            return name + " cannot be used: " + String.join("; ", wrong);
        }
        return name + " cannot be used until " + missing + " is declared";
    }

    static int lineOf(String code, int index) {
        int line = 1;
        for (int i = code.indexOf('\n'); i >= 0 && i < index; i = code.indexOf('\n', i + 1)) {
            line++;
        }
        return line;
    }

    /** Gives JShell the one way to execute that we have. */
    private record Here(Execution execution) implements ExecutionControlProvider {
        @Override
        public String name() {
            return "sandlot";
        }

        @Override
        public ExecutionControl generate(ExecutionEnv environment, Map<String, String> parameters) {
            return execution;
        }
    }
}
