package sandlot.kernel;

import java.util.List;
import java.util.function.BooleanSupplier;

/** Code that nobody sees, so that what it touches is loaded and compiled; also for the class-data archive. */
final class WarmUp {
    private static final List<String> CODE =
            List.of(
                    "int warm = 2;\nString word = \"a\" + warm;\nword",
                    "int twice(int n) {\n    return 2 * n;\n}\ntwice(warm)",
                    "class Pair<T> {\n    final T one;\n"
                            + "    Pair(T one) { this.one = one; }\n"
                            + "    @Override public String toString() { return \"<\" + one + \">\"; }\n}\nnew Pair<>(warm)",
                    "var list = new ArrayList<>(List.of(3, 1, 2));\nlist.stream().map(n -> n * n).toList()",
                    "for (int i = 0; i < 2; i++) {\n    warm += list.get(i);\n}\nSystem.out.print(\"\");",
                    "1 + 1");
    private static final List<String> WRONG = List.of("unknown + 1", "1 / 0");

    private WarmUp() {}

    /** Run it piece by piece until all is done or `needed` says that somebody waits; nothing of it is left. */
    static void run(Session session, BooleanSupplier needed) {
        for (List<String> codes : List.of(CODE, WRONG)) {
            for (String code : codes) {
                if (needed.getAsBoolean()) {
                    break;
                }
                session.run(code, 0);
            }
        }
        session.clear();
    }
}
