// Runs a declarative Jenkinsfile against the few steps that ours may use, and prints what it would do as JSON.
// A section or step that is not listed here ends the run with an error.
import groovy.json.JsonOutput
import org.codehaus.groovy.control.CompilerConfiguration

class Unknown extends RuntimeException { Unknown(String what) { super("unknown here: " + what) } }

/** A block in which only the named words mean something. */
class Block {
    Map<String, Closure> words
    Object invokeMethod(String name, Object arguments) {
        if (!words.containsKey(name)) throw new Unknown(name)
        words[name].call(*(arguments as Object[]))
    }
    void setProperty(String name, Object value) {
        if (!words.containsKey('=')) throw new Unknown(name + ' =')
        words['='].call(name, value)
    }
    static void run(Closure body, Map<String, Closure> words) {
        body.delegate = new Block(words: words)
        body.resolveStrategy = Closure.DELEGATE_ONLY
        body.call()
    }
}

abstract class Pipeline extends Script {
    static Map result = [stages: [], environment: [:], post: []]

    void pipeline(Closure body) {
        Block.run(body, [
            agent: { Closure it -> Block.run(it, [label: { String label -> result.agent = label }]) },
            options: { Closure it -> Block.run(it, [
                timeout: { Map m -> result.timeout = m }, disableConcurrentBuilds: { -> }, timestamps: { -> },
                buildDiscarder: { Object o -> }, logRotator: { Map m -> m }]) },
            environment: { Closure it -> Block.run(it, ['=': { String k, Object v -> result.environment[k] = v }]) },
            stages: { Closure it -> Block.run(it, [stage: this.&stage]) },
            post: { Closure it -> Block.run(it, [always: { Closure c ->
                Block.run(c, [archiveArtifacts: { Map m -> result.post << m.artifacts }]) }]) },
        ])
    }

    void stage(String name, Closure body) {
        def stage = [name: name, steps: []]
        Block.run(body, [
            when: { Closure it -> Block.run(it, [branch: { String b -> stage.branch = b }]) },
            steps: { Closure it -> Block.run(it, [
                sh: { String command -> stage.steps << command },
                input: { Map m -> stage.asks = m.message }]) },
        ])
        result.stages << stage
    }
}

def configuration = new CompilerConfiguration(scriptBaseClass: Pipeline.name)
new GroovyShell(this.class.classLoader, new Binding(), configuration).evaluate(new File(args[0]))
println JsonOutput.toJson(Pipeline.result)
