package sandlot.kernel;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;

/** Start the runner of one context; with the argument `train`, a rehearsal for the image build. */
public final class Main {
    /** The user's threads are in the group in which a program's are, ours beside it. */
    static final ThreadGroup USER_THREADS = Thread.currentThread().getThreadGroup();

    static final ThreadGroup THREADS = new ThreadGroup(USER_THREADS.getParent(), "sandlot");

    private Main() {}

    public static void main(String[] arguments) throws InterruptedException {
        Thread.currentThread().setName("sandlot");
        Native.takeInterrupts();
        System.setProperty("java.class.path", Session.NO_CLASS_PATH); // ours is nobody's business
        boolean training = arguments.length > 0;
        boolean started = !training && Sandbox.isStarted();
        Channel channel;
        if (training) {
            channel = Training.channel();
        } else {
            FileDescriptor descriptor = Sandbox.channel();
            channel = new Channel(new FileInputStream(descriptor), new FileOutputStream(descriptor));
        }
        Console console = new Console(channel);
        System.setIn(console);
        Session session = new Session();
        if (training) {
            WarmUp.run(session, () -> false);
        }
        new Runner(channel, console, session, training ? () -> {} : () -> System.exit(0)).serve(started);
    }
}
