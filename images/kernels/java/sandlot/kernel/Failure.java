package sandlot.kernel;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import jdk.jshell.DeclarationSnippet;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.JShellException;
import jdk.jshell.MethodSnippet;
import jdk.jshell.Snippet;
import jdk.jshell.SourceCodeAnalysis.Completeness;
import jdk.jshell.UnresolvedReferenceException;
import jdk.jshell.VarSnippet;

/**
 * An error as the channel has it, in the terms of the code that was run instead of JShell's classes around it.
 *
 * <p>Names are those that clients know from the official images: EvalException for whatever the code threw, with the
 * thrown class and its message in the value; CompilationException, IncompleteSourceException, UnresolvedReferenceException.
 */
record Failure(String name, String value, List<String> traceback) {
    private static final Pattern WRAPPER = Pattern.compile("\\bREPL\\.\\$JShell\\$[0-9A-Z]+[.$]");
    private static final int MAX_DIAGNOSTICS = 20;
    private static final int MAX_FRAMES = 60;
    private static final int MAX_CAUSES = 10;
    private static final String INTERRUPTED = "java.lang.InterruptedException";

    /** The code does not compile. Positions are those in the whole code of the run. */
    static Failure rejected(Session session, Snippet snippet, String code, Session.Piece piece) {
        String value = "";
        List<String> lines = new ArrayList<>();
        List<Diag> errors = session.shell.diagnostics(snippet).filter(Diag::isError).limit(MAX_DIAGNOSTICS).toList();
        for (Diag error : errors) {
            int begin = place(piece, code, error.getStartPosition(), error.getPosition());
            int end = Math.max(begin, place(piece, code, error.getEndPosition(), error.getPosition()));
            int lineBegin = code.lastIndexOf('\n', begin - 1) + 1;
            int lineEnd = code.indexOf('\n', begin);
            String line = code.substring(lineBegin, lineEnd < 0 ? code.length() : lineEnd);
            int column = begin - lineBegin;
            String message =
                    error.getMessage(Locale.ROOT)
                            .lines()
                            .filter(one -> !one.strip().startsWith("location:")) // one of JShell's classes
                            .map(String::stripTrailing)
                            .collect(Collectors.joining("\n"));
            String placed =
                    "line " + Session.lineOf(code, begin) + ", column " + (column + 1) + ": " + clean(message);
            value = value.isEmpty() ? placed : value;
            int width = Math.max(1, Math.min(end, lineBegin + line.length()) - begin);
            String indent = line.substring(0, Math.min(column, line.length())).replaceAll("[^\t]", " ");
            lines.add(placed);
            lines.add(line);
            lines.add(indent + "^".repeat(width));
        }
        if (errors.isEmpty()) {
            value = "JShell does not take this: " + piece.source().strip();
        }
        boolean isCut = piece.completeness() == Completeness.DEFINITELY_INCOMPLETE;
        return new Failure(isCut ? "IncompleteSourceException" : "CompilationException", value, lines);
    }

    /** The code threw something. */
    static Failure thrown(Session session, JShellException exception) {
        List<String> lines = new ArrayList<>();
        JShellException at = exception;
        for (int i = 0; at != null && i < MAX_CAUSES; i++) {
            lines.add((i == 0 ? "" : "Caused by: ") + headline(session, at));
            frames(session, at, lines);
            at = at.getCause() instanceof JShellException cause && cause != at ? cause : null;
        }
        String value = exception instanceof EvalException ? headline(session, exception) : messageOf(session, exception);
        return new Failure(exception.getClass().getSimpleName(), value, lines);
    }

    /** The code was interrupted. `exception` says where; null: between two snippets. */
    static Failure interrupted(Session session, JShellException exception) {
        List<String> lines = new ArrayList<>(List.of(INTERRUPTED));
        if (exception != null) {
            frames(session, exception, lines);
        }
        return new Failure(INTERRUPTED, "the run was interrupted", lines);
    }

    static Failure interrupted() {
        return interrupted(null, null);
    }

    /** JShell failed, or there was no memory left for it. */
    static Failure internal(Throwable thrown) {
        String name = thrown.getClass().getName();
        String value;
        try {
            value = String.valueOf(thrown.getMessage());
        } catch (RuntimeException | Error theirs) { // it is an exception of the user's that JShell could not convert
            value = "(its message cannot be shown)";
        }
        return new Failure(name, value, List.of(name + ": " + value));
    }

    /** A declaration in words: `method f(int)`, `variable x`, `class A`. */
    static String nameOf(DeclarationSnippet declaration) {
        if (declaration instanceof MethodSnippet method) {
            return "method " + method.name() + "(" + method.parameterTypes() + ")";
        }
        if (declaration instanceof VarSnippet) {
            return "variable " + declaration.name();
        }
        return switch (declaration.subKind()) {
            case INTERFACE_SUBKIND -> "interface ";
            case ENUM_SUBKIND -> "enum ";
            case RECORD_SUBKIND -> "record ";
            case ANNOTATION_TYPE_SUBKIND -> "@interface ";
            default -> "class ";
        } + declaration.name();
    }

    private static String nameOf(JShellException exception) {
        if (exception instanceof EvalException thrown) {
            return clean(thrown.getExceptionClassName());
        }
        return exception instanceof UnresolvedReferenceException ? "UnresolvedReferenceException" : "InternalException";
    }

    private static String messageOf(Session session, JShellException exception) {
        if (exception instanceof UnresolvedReferenceException missing) {
            return session.waiting(missing.getSnippet());
        }
        return exception.getMessage() == null ? "" : clean(exception.getMessage());
    }

    private static String headline(Session session, JShellException exception) {
        String message = messageOf(session, exception);
        return nameOf(exception) + (message.isEmpty() ? "" : ": " + message);
    }

    private static void frames(Session session, JShellException exception, List<String> lines) {
        StackTraceElement[] frames = exception.getStackTrace();
        for (int i = 0; i < frames.length && i < MAX_FRAMES; i++) {
            lines.add("\tat " + frame(session, frames[i]));
        }
        if (frames.length > MAX_FRAMES) {
            lines.add("\t... " + (frames.length - MAX_FRAMES) + " more");
        }
    }

    /** In code of a run: `name(#3:12)`, the run's execution count and the line in its code. */
    private static String frame(Session session, StackTraceElement frame) {
        String file = frame.getFileName();
        Session.Origin origin = file != null && file.startsWith("#") ? session.origin(file.substring(1)) : null;
        if (origin == null) {
            return clean(frame.toString());
        }
        String owner = clean(frame.getClassName());
        String method = frame.getMethodName();
        String name = owner.isEmpty() || method.isEmpty() ? owner + method : owner + "." + method;
        return name + "(#" + origin.run() + ":" + (origin.line() + frame.getLineNumber() - 1) + ")";
    }

    private static int place(Session.Piece piece, String code, long position, long otherwise) {
        long inPiece = position == Diag.NOPOS ? Math.max(0, otherwise) : position;
        return (int) Math.min(piece.begin() + inPiece, code.length());
    }

    private static String clean(String text) {
        return WRAPPER.matcher(text).replaceAll("");
    }
}
