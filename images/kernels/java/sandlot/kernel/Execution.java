package sandlot.kernel;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import jdk.jshell.execution.DirectExecutionControl;

/**
 * Executes snippets in this JVM, each in a thread of its own, so that an interrupt never strikes one of ours.
 *
 * <p>Interrupting asks by Thread.interrupt(), then insists by throwing a ThreadDeath in the thread, which also ends loops
 * that wait for nothing. What even that does not reach, because it waits outside of Java, is left to itself: the context
 * goes on without it.
 */
final class Execution extends DirectExecutionControl {
    private static final long ASK_MS = 100; // for the code to end by itself
    private static final long INSIST_MS = 50; // between stops of code that catches everything
    private static final StackTraceElement[] NOWHERE = {};
    private static final int INSIST_TIMES = 20;

    private long running; // number of the run; 0: none
    private long struck; // the last run that was to be interrupted
    private Snippet snippet;

    /** A run begins. */
    synchronized void begin(long run) {
        running = run;
    }

    /** It has ended. */
    synchronized void end() {
        running = 0;
    }

    /** Whether the present run was to be interrupted. */
    synchronized boolean isStruck() {
        return running != 0 && running == struck;
    }

    /** Interrupt a run, which may not have begun yet. */
    synchronized void strike(long run) {
        struck = run;
        if (running == run && snippet != null) {
            Snippet target = snippet;
            Thread stopper = new Thread(Main.THREADS, target::end, "sandlot-interrupt");
            stopper.setDaemon(true);
            stopper.start();
        }
    }

    @Override
    protected String invoke(Method method) throws Exception {
        Snippet mine = new Snippet(method);
        synchronized (this) {
            if (isStruck()) {
                throw new InvocationTargetException(Snippet.death(NOWHERE));
            }
            snippet = mine;
            mine.start(); // here, so that a strike never meets a thread that has not started, and misses it
        }
        mine.await();
        synchronized (this) {
            snippet = null;
        }
        if (mine.failure != null) {
            throw new InvocationTargetException(mine.failure); // the form in which it counts as the user's
        }
        return mine.value;
    }

    private static final class Snippet extends Thread {
        private final Method method;
        private volatile Throwable failure = new ThreadDeath(); // unless it comes to an end of its own
        private String value;
        private boolean abandoned;
        private StackTraceElement[] struckAt = NOWHERE;

        Snippet(Method method) {
            super(Main.USER_THREADS, "main");
            this.method = method;
            setContextClassLoader(method.getDeclaringClass().getClassLoader());
        }

        @Override
        public void run() {
            try {
                value = valueString(method.invoke(null));
                failure = null;
            } catch (InvocationTargetException thrown) {
                failure = thrown.getCause();
            } catch (Exception | Error thrown) {
                failure = thrown;
            }
        }

        /** Wait until it has ended, or has been given up. */
        synchronized void await() {
            while (isAlive() && !abandoned) {
                try {
                    wait(); // the end of a thread wakes whoever waits for it
                } catch (InterruptedException nobodyDoes) {
                    // Go on waiting.
                }
            }
            if (abandoned || failure instanceof ThreadDeath) {
                failure = death(struckAt);
            }
        }

        /** What ends a snippet, as if it had been made where that was. */
        static ThreadDeath death(StackTraceElement[] where) {
            ThreadDeath death = new ThreadDeath();
            death.setStackTrace(where);
            return death;
        }

        void end() {
            try {
                StackTraceElement[] where = getStackTrace();
                synchronized (this) {
                    struckAt = where;
                }
                interrupt();
                join(ASK_MS);
                for (int i = 0; i < INSIST_TIMES && isAlive(); i++) {
                    Native.stop(this, death(where));
                    join(INSIST_MS);
                }
                synchronized (this) {
                    abandoned = isAlive();
                    notifyAll();
                }
            } catch (InterruptedException nobodyDoes) {
                // There is nothing that it could mean.
            }
        }
    }
}
