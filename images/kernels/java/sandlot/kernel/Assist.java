package sandlot.kernel;

import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import jdk.jshell.DeclarationSnippet;
import jdk.jshell.ImportSnippet;
import jdk.jshell.MethodSnippet;
import jdk.jshell.PersistentSnippet;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.Suggestion;
import jdk.jshell.VarSnippet;

/** What an editor asks about code: what may stand at the cursor, and what the name there is. Indices are in chars. */
final class Assist {
    private static final int MAX_MATCHES = 1000;

    private Assist() {}

    /** Texts that may stand in place of the characters from start to the cursor. */
    record Completion(List<String> matches, int start) {}

    static Completion complete(Session session, String code, int cursor) {
        int begin = lastPiece(session, code, cursor);
        int[] anchor = {cursor - begin};
        List<Suggestion> found =
                session.shell
                        .sourceCodeAnalysis()
                        .completionSuggestions(code.substring(begin, cursor), cursor - begin, anchor);
        List<String> matches =
                found.stream()
                        .sorted(Comparator.comparing(one -> !one.matchesType()))
                        .map(Suggestion::continuation)
                        .distinct()
                        .limit(MAX_MATCHES)
                        .toList();
        return matches.isEmpty() ? new Completion(matches, cursor) : new Completion(matches, begin + anchor[0]);
    }

    static Map<String, String> inspect(Session session, String code, int cursor, boolean detail) {
        int end = cursor;
        while (end < code.length() && Character.isJavaIdentifierPart(code.charAt(end))) {
            end++;
        }
        int begin = end;
        while (begin > 0 && Character.isJavaIdentifierPart(code.charAt(begin - 1))) {
            begin--;
        }
        String name = code.substring(begin, end);
        boolean member = code.substring(0, begin).stripTrailing().endsWith(".");
        String text = name.isEmpty() || member ? "" : declared(session, name, detail);
        if (text.isEmpty()) {
            String piece = code.substring(lastPiece(session, code, end), end);
            text = documented(session, piece, detail);
            if (text.isEmpty() && !name.isEmpty()) {
                text = documented(session, piece + "(", detail); // JShell tells of methods where they are called
            }
        }
        return text.isEmpty() ? Map.of() : Map.of("text/plain", text);
    }

    /** Where the snippet begins in which the cursor is: the analysis wants one, not a whole run's code. */
    private static int lastPiece(Session session, String code, int cursor) {
        List<Session.Piece> pieces = session.cut(code.substring(0, cursor));
        return pieces.isEmpty() ? 0 : pieces.get(pieces.size() - 1).begin();
    }

    private static String documented(Session session, String code, boolean detail) {
        SourceCodeAnalysis analysis = session.shell.sourceCodeAnalysis();
        return analysis.documentation(code, code.length(), detail).stream()
                .map(one -> detail && one.javadoc() != null ? one.signature() + "\n" + one.javadoc() : one.signature())
                .distinct()
                .collect(Collectors.joining("\n"));
    }

    /** What the context's own code says of a name. */
    private static String declared(Session session, String name, boolean detail) {
        Map<String, String> found = new LinkedHashMap<>();
        session.shell
                .snippets()
                .filter(one -> one instanceof PersistentSnippet && !(one instanceof ImportSnippet))
                .map(DeclarationSnippet.class::cast)
                .filter(one -> one.name().equals(name) && session.shell.status(one).isActive())
                .forEach(one -> found.put(one.id(), detail ? one.source().strip() : signature(session, one)));
        return String.join("\n", found.values());
    }

    private static String signature(Session session, DeclarationSnippet declaration) {
        if (declaration instanceof VarSnippet variable) {
            return variable.typeName() + " " + variable.name();
        }
        if (declaration instanceof MethodSnippet method) {
            // Its signature as JShell has it: (int,int)int
            String types = method.signature();
            return types.substring(types.indexOf(')') + 1) + " " + method.name() + "(" + method.parameterTypes() + ")";
        }
        return Failure.nameOf(declaration);
    }
}
