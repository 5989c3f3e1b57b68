package sandlot.kernel;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;

/**
 * JShell's index of all packages and classes there are. It is made in the background, which takes 0.3 s of CPU just
 * when the first run begins, and only completion needs it: so it is held back until somebody asks for that.
 */
final class NameIndex {
    private final CountDownLatch wanted = new CountDownLatch(1);
    private ExecutorService indexer; // null: nothing is held back

    /** Keep JShell's thread for it busy. */
    void hold() {
        try {
            Class<?> owner = Class.forName("jdk.jshell.SourceCodeAnalysisImpl");
            Object found = Native.getStatic(owner, "INDEXER", "Ljava/util/concurrent/ExecutorService;");
            if (found instanceof ExecutorService service) {
                indexer = service;
                indexer.execute(this::waitUntilWanted);
            }
        } catch (ClassNotFoundException other) {
            // Another JDK: then the index is made at once.
        }
    }

    /** Have it made, and wait for it. */
    void release() {
        wanted.countDown();
        if (indexer != null) {
            try {
                indexer.submit(() -> {}).get(); // behind what has been waiting there
            } catch (InterruptedException | ExecutionException without) {
                // Completion makes do with what there is.
            }
            indexer = null;
        }
    }

    private void waitUntilWanted() {
        try {
            wanted.await();
        } catch (InterruptedException nobodyDoes) {
            // It only means that the index is made.
        }
    }
}
